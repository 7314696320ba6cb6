// Adam on a CPU, with its averages in float32, bfloat16 or 8 bits. Row-major arrays; the eager twins say what each computes.
// ``size`` multiplies the gradient (clipping); the corrections are those of Adam's two averages. Each row is one thread's.

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 256  // neighbours in a row that share a scale

// One row. With project, the radial part of its gradient is taken away first and it has norm 1 afterwards.
static inline void adam_row(float *restrict w, const float *restrict from, float *restrict mean, float *restrict square,
                            int64_t width, float size, float rate, float beta1, float beta2, float eps, float root,
                            int64_t project) {
    float radial = 0.0f;
    if (project) {
#pragma omp simd reduction(+ : radial)
        for (int64_t i = 0; i < width; i++) radial += from[i] * w[i];
    }
    float norm = 0.0f;
#pragma omp simd reduction(+ : norm)
    for (int64_t i = 0; i < width; i++) {
        float d = size * (from[i] - radial * w[i]);
        mean[i] = beta1 * mean[i] + (1.0f - beta1) * d;
        square[i] = beta2 * square[i] + (1.0f - beta2) * d * d;
        w[i] -= rate * mean[i] / (sqrtf(square[i]) * root + eps);
        norm += w[i] * w[i];
    }
    if (project) {
        float inverse = 1.0f / fmaxf(sqrtf(norm), 1e-12f);
#pragma omp simd
        for (int64_t i = 0; i < width; i++) w[i] *= inverse;
    }
}

// Both averages in float32.
void adam(float *p, const float *grad, float *m, float *v, int64_t rows, int64_t width, float size, float lr, float beta1,
          float beta2, float eps, float correct1, float correct2, int64_t project) {
    float rate = lr / correct1, root = 1.0f / sqrtf(correct2);  // divisions are dear
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++)
        adam_row(p + row * width, grad + row * width, m + row * width, v + row * width, width, size, rate, beta1, beta2,
                 eps, root, project);
}

// 32 bits that look random, of the place of a weight and the key of a step (Wellons' lowbias32).
static inline uint32_t noise_at(uint32_t place, uint32_t key) {
    uint32_t x = place + key;
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

static inline float widened(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// To one of the two nearest bfloat16: 16 random bits are added to those that it lacks.
static inline uint16_t narrowed(float value, uint32_t noise) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + (noise & 0xffff)) >> 16);
}

// Both averages in bfloat16, rounded at random.
void adam_bf16(float *p, const float *grad, uint16_t *m, uint16_t *v, int64_t key, int64_t rows, int64_t width, float size,
               float lr, float beta1, float beta2, float eps, float correct1, float correct2, int64_t project) {
    float rate = lr / correct1, root = 1.0f / sqrtf(correct2);
#pragma omp parallel
    {
        float *mean = malloc(sizeof(float) * 2 * width), *square = mean + width;
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            uint16_t *restrict half_mean = m + row * width, *restrict half_square = v + row * width;
#pragma omp simd
            for (int64_t i = 0; i < width; i++) {
                mean[i] = widened(half_mean[i]);
                square[i] = widened(half_square[i]);
            }
            adam_row(p + row * width, grad + row * width, mean, square, width, size, rate, beta1, beta2, eps, root, project);
            uint32_t first = (uint32_t)(row * width);
#pragma omp simd
            for (int64_t i = 0; i < width; i++) {
                uint32_t noise = noise_at(first + (uint32_t)i, (uint32_t)key);
                half_mean[i] = narrowed(mean[i], noise);
                half_square[i] = narrowed(square[i], noise >> 16);
            }
        }
        free(mean);
    }
}

// A block of both averages from 8 bits: sign(c) c^2 and c^4, times a scale.
static void decoded(const int8_t *restrict codes, const uint8_t *restrict square_codes, int64_t n, float scale,
                    float square_scale, float *restrict mean, float *restrict square) {
    float unit = scale * (1.0f / 16129), square_unit = square_scale * (1.0f / 4228250625);  // 127^2, 255^4
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float c = codes[i], s = square_codes[i];
        mean[i] = c * fabsf(c) * unit;
        square[i] = s * s * (s * s) * square_unit;
    }
}

// The same back: the scales are the largest, and of the two nearest codes the nearer one is taken more often, so that the
// decoded averages are right on average. No square that is not zero becomes zero, since Adam divides by it.
static void coded(const float *restrict mean, const float *restrict square, int64_t n, uint32_t first, uint32_t key,
                  int8_t *restrict codes, uint8_t *restrict square_codes, float *scale, float *square_scale) {
    float most = 0.0f, most_square = 0.0f;
#pragma omp simd reduction(max : most, most_square)
    for (int64_t i = 0; i < n; i++) {
        float size = fabsf(mean[i]);
        most = size > most ? size : most;
        most_square = square[i] > most_square ? square[i] : most_square;
    }
    *scale = most;
    *square_scale = most_square;
    float per = most >= FLT_MIN ? 1.0f / most : 0.0f, per_square = most_square >= FLT_MIN ? 1.0f / most_square : 0.0f;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        uint32_t noise = noise_at(first + (uint32_t)i, key);
        float chance = (float)(noise & 0xffff) * (1.0f / 65536), other = (float)(noise >> 16) * (1.0f / 65536);
        float t = fabsf(mean[i]) * per * 16129.0f, low = (float)(int32_t)sqrtf(t);
        float c = low + (chance * (2.0f * low + 1.0f) < t - low * low ? 1.0f : 0.0f);
        c = c < 127.0f ? c : 127.0f;
        codes[i] = (int8_t)(int32_t)(mean[i] < 0.0f ? -c : c);
        float u = square[i] * per_square * 4228250625.0f, root = sqrtf(u), below = (float)(int32_t)sqrtf(root);
        float from = below * below, to = (below + 1.0f) * (below + 1.0f);
        float s = below + (other * (to * to - from * from) < u - from * from ? 1.0f : 0.0f);
        s = s < 1.0f && square[i] > 0.0f ? 1.0f : s;
        square_codes[i] = (uint8_t)(int32_t)(s < 255.0f ? s : 255.0f);
    }
}

// Both averages in 8 bits, with a scale for each block of a row.
void adam_8bit(float *p, const float *grad, int8_t *m, uint8_t *v, float *scales, float *square_scales, int64_t key,
               int64_t rows, int64_t width, float size, float lr, float beta1, float beta2, float eps, float correct1,
               float correct2, int64_t project) {
    float rate = lr / correct1, root = 1.0f / sqrtf(correct2);
    int64_t blocks = (width + BLOCK - 1) / BLOCK;
#pragma omp parallel
    {
        float *mean = malloc(sizeof(float) * 2 * width), *square = mean + width;
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            float *scale = scales + row * blocks, *square_scale = square_scales + row * blocks;
            for (int64_t b = 0, i = 0; b < blocks; b++, i += BLOCK)
                decoded(m + row * width + i, v + row * width + i, width - i < BLOCK ? width - i : BLOCK, scale[b],
                        square_scale[b], mean + i, square + i);
            adam_row(p + row * width, grad + row * width, mean, square, width, size, rate, beta1, beta2, eps, root, project);
            for (int64_t b = 0, i = 0; b < blocks; b++, i += BLOCK)
                coded(mean + i, square + i, width - i < BLOCK ? width - i : BLOCK, (uint32_t)(row * width + i),
                      (uint32_t)key, m + row * width + i, v + row * width + i, scale + b, square_scale + b);
        }
        free(mean);
    }
}
