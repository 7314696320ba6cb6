// Activations of chosen latents: whether they are among the k largest of a token is found by scoring the others one by
// one until k larger ones are found, which for most latents is soon. See `topk_activations` in chosen.py.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef float vec __attribute__((vector_size(64), aligned(4), may_alias));

#define LANES 16
#define TOGETHER 4  // latents scored at a time, so that their sums do not wait for each other

static inline vec load(const float *from) { return *(const vec *)from; }

typedef float half __attribute__((vector_size(32)));
typedef float quarter __attribute__((vector_size(16)));

static inline float sum(vec v) {
    union { vec whole; half of[2]; } a = {v};
    union { half whole; quarter of[2]; } b = {a.of[0] + a.of[1]};
    quarter c = b.of[0] + b.of[1];
    return (c[0] + c[1]) + (c[2] + c[3]);
}

// out[i] = x . w_i + b_i for TOGETHER rows w_i that follow each other
static void score(const float *x, const float *w, const float *b, int64_t width, float *out) {
    vec sums[TOGETHER];
    memset(sums, 0, sizeof sums);
    int64_t place = 0;
    for (; place + LANES <= width; place += LANES) {
        vec here = load(x + place);
        for (int i = 0; i < TOGETHER; i++) sums[i] += here * load(w + i * width + place);
    }
    for (int i = 0; i < TOGETHER; i++) {
        out[i] = sum(sums[i]) + b[i];
        for (int64_t rest = place; rest < width; rest++) out[i] += x[rest] * w[i * width + rest];
    }
}

static float product(const float *x, const float *w, int64_t width) {
    vec sums = {0};
    int64_t place = 0;
    for (; place + LANES <= width; place += LANES) sums += load(x + place) * load(w + place);
    float out = sum(sums);
    for (; place < width; place++) out += x[place] * w[place];
    return out;
}

// The activations of n chosen latents of each token, those of token t at latents + t * stride. Each is its
// pre-activation, but 0 where it is not positive or k of the `seen` first latents are larger; `larger` counts those,
// and is at least k wherever the activation is 0.
void chosen_activations(const float *x, const float *centre, const float *W, const float *b, const int64_t *latents,
                        int64_t stride, int64_t tokens, int64_t seen, int64_t width, int64_t n, int64_t k,
                        float *chosen, float *larger) {
#pragma omp parallel
    {
        float *own = malloc(width * sizeof *own);
#pragma omp for schedule(dynamic, 1)
        for (int64_t token = 0; token < tokens; token++) {
            const int64_t *asked = latents + token * stride;
            const float *from = x + token * width;
            float *values = chosen + token * n, *counts = larger + token * n;
            if (centre) {
                for (int64_t j = 0; j < width; j++) own[j] = from[j] - centre[j];
                from = own;
            }
            for (int64_t i = 0; i < n; i++) {
                values[i] = product(from, W + asked[i] * width, width) + b[asked[i]];
                counts[i] = values[i] > 0.0f ? 0.0f : (float)k;
            }
            for (int64_t first = 0; first < seen; first += TOGETHER) {
                int64_t open = 0;
                for (int64_t i = 0; i < n; i++) open += counts[i] < (float)k;
                if (!open) break;
                float scores[TOGETHER];
                int64_t many = seen - first < TOGETHER ? seen - first : TOGETHER;
                if (many == TOGETHER) score(from, W + first * width, b + first, width, scores);
                else for (int64_t i = 0; i < many; i++)
                    scores[i] = product(from, W + (first + i) * width, width) + b[first + i];
                for (int64_t i = 0; i < n; i++)
                    for (int64_t j = 0; j < many; j++) counts[i] += (first + j != asked[i]) & (scores[j] > values[i]);
            }
            for (int64_t i = 0; i < n; i++) if (counts[i] >= (float)k) values[i] = 0.0f;
        }
        free(own);
    }
}
