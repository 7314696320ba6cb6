// Kernels of the sparse training step on a CPU. Row-major float32 arrays; the eager twins say what each computes.
// Every output element is written by one thread and summed in a fixed order, so results do not depend on the threads.

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define GROUP 64

// k-th largest of n values (k from 1), which are reordered
static float kth_largest(float *values, int64_t n, int64_t k) {
    int64_t low = 0, high = n - 1, wanted = k - 1;
    while (low < high) {
        float pivot = values[(low + high) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (values[i] > pivot) i++;
            while (values[j] < pivot) j--;
            if (i <= j) {
                float swap = values[i];
                values[i++] = values[j];
                values[j--] = swap;
            }
        }
        if (wanted <= j) high = j;
        else if (wanted >= i) low = i;
        else break;
    }
    return values[wanted];
}

// The k largest of each row, by rising index; of equal ones at the edge those with the lowest index.
// A bound from below (the k-th largest of the maxima of groups) leaves few values to look at. A row with a NaN in it
// gives NaN, so that it shows in the loss.
void topk(const float *pre, int64_t rows, int64_t width, int64_t k, int64_t *indices, float *values) {
    int64_t groups = (width + GROUP - 1) / GROUP;
#pragma omp parallel
    {
        float *maxima = malloc(sizeof(float) * groups), *scratch = malloc(sizeof(float) * (width > groups ? width : groups));
        int64_t *places = malloc(sizeof(int64_t) * width);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            const float *x = pre + row * width;
            float bound = -INFINITY;
            int strange = 0;
            for (int64_t g = 0; g < groups; g++) {
                int64_t end = (g + 1) * GROUP < width ? (g + 1) * GROUP : width;
                float most = x[g * GROUP];
#pragma omp simd reduction(max : most) reduction(| : strange)
                for (int64_t i = g * GROUP; i < end; i++) {
                    most = x[i] > most ? x[i] : most;
                    strange |= x[i] != x[i];
                }
                maxima[g] = most;
            }
            if (strange) {
                for (int64_t i = 0; i < k; i++) {
                    indices[row * k + i] = i;
                    values[row * k + i] = NAN;
                }
                continue;
            }
            if (groups >= k) {
                memcpy(scratch, maxima, sizeof(float) * groups);
                bound = kth_largest(scratch, groups, k);
            }
            int64_t found = 0;
            for (int64_t g = 0; g < groups; g++) {
                if (maxima[g] < bound) continue;
                int64_t end = (g + 1) * GROUP < width ? (g + 1) * GROUP : width;
                for (int64_t i = g * GROUP; i < end; i++) {
                    places[found] = i;
                    scratch[found] = x[i];
                    found += x[i] >= bound;
                }
            }
            float edge = kth_largest(scratch, found, k);
            int64_t above = 0, taken = 0;
            for (int64_t i = 0; i < found; i++) above += x[places[i]] > edge;
            int64_t equal = k - above;
            for (int64_t i = 0; i < found && taken < k; i++) {
                float value = x[places[i]];
                if (value > edge || (value == edge && equal-- > 0)) {
                    indices[row * k + taken] = places[i];
                    values[row * k + taken++] = value;
                }
            }
        }
        free(maxima);
        free(scratch);
        free(places);
    }
}

// Per row: error = bias + sum_j values_j W[indices_j] - target; g = scale * error; grad_j = g . W[indices_j].
// Returns the sum of squared errors of each row. The rows of W are read twice while they are in the cache.
void reconstruct(const int64_t *indices, const float *values, const float *W, const float *bias, const float *target,
                 float scale, int64_t rows, int64_t k, int64_t width, float *g, float *grads, double *squares) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        float *out = g + row * width;
        const float *x = target + row * width;
        for (int64_t i = 0; i < width; i++) out[i] = (bias ? bias[i] : 0.0f) - x[i];
        for (int64_t j = 0; j < k; j++) {
            float a = values[row * k + j];
            if (a == 0.0f) continue;
            const float *w = W + indices[row * k + j] * width;
#pragma omp simd
            for (int64_t i = 0; i < width; i++) out[i] += a * w[i];
        }
        double total = 0.0;
#pragma omp simd reduction(+ : total)
        for (int64_t i = 0; i < width; i++) {
            total += (double)out[i] * out[i];
            out[i] *= scale;
        }
        squares[row] = total;
        for (int64_t j = 0; j < k; j++) {
            const float *w = W + indices[row * k + j] * width;
            float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
            for (int64_t i = 0; i < width; i++) dot += out[i] * w[i];
            grads[row * k + j] = dot;
        }
    }
}

// The pairs (row, j) in the order of their latent: order[starts[i]] to order[starts[i + 1] - 1] are those of latent i.
void by_latent(const int64_t *indices, int64_t pairs, int64_t latents, int64_t *starts, int32_t *order) {
    memset(starts, 0, sizeof(int64_t) * (latents + 1));
    for (int64_t p = 0; p < pairs; p++) starts[indices[p] + 1]++;
    for (int64_t i = 0; i < latents; i++) starts[i + 1] += starts[i];
    int64_t *next = malloc(sizeof(int64_t) * latents);
    memcpy(next, starts, sizeof(int64_t) * latents);
    for (int64_t p = 0; p < pairs; p++) order[next[indices[p]]++] = (int32_t)p;
    free(next);
}

// grad_dec[i] = sum of values_p g[row_p] and grad_enc[i] = sum of grads_p x[row_p] over the pairs p of latent i;
// grad_bias[i] = sum of grads_p. Returns the three sums of squares of each latent.
void weight_grads(const int64_t *starts, const int32_t *order, const float *values, const float *grads, const float *g,
                  const float *x, int64_t k, int64_t latents, int64_t d_out, int64_t d_in, int64_t add, float *grad_dec,
                  float *grad_enc, float *grad_bias) {
#pragma omp parallel for schedule(dynamic, 64)
    for (int64_t latent = 0; latent < latents; latent++) {
        float *dec = grad_dec + latent * d_out, *enc = grad_enc + latent * d_in, bias = 0.0f;
        if (!add) {
            memset(dec, 0, sizeof(float) * d_out);
            memset(enc, 0, sizeof(float) * d_in);
        }
        for (int64_t place = starts[latent]; place < starts[latent + 1]; place++) {
            int64_t pair = order[place], row = pair / k;
            float a = values[pair], d = grads[pair];
            if (place + 1 < starts[latent + 1]) {
                int64_t after = order[place + 1] / k;
                for (int64_t i = 0; i < d_out; i += 16) __builtin_prefetch(g + after * d_out + i);
                for (int64_t i = 0; i < d_in; i += 16) __builtin_prefetch(x + after * d_in + i);
            }
            const float *from = g + row * d_out, *in = x + row * d_in;
            if (a != 0.0f)
#pragma omp simd
                for (int64_t i = 0; i < d_out; i++) dec[i] += a * from[i];
            if (d != 0.0f)
#pragma omp simd
                for (int64_t i = 0; i < d_in; i++) enc[i] += d * in[i];
            bias += d;
        }
        grad_bias[latent] = (add ? grad_bias[latent] : 0.0f) + bias;
    }
}

// Adam on rows of a matrix. With project, the radial part of each gradient row is taken away first and each row has
// norm 1 afterwards. ``size`` multiplies the gradient (clipping).
void adam(float *p, const float *grad, float *m, float *v, int64_t rows, int64_t width, float size, float lr, float beta1,
          float beta2, float eps, float correct1, float correct2, int64_t project) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        float *w = p + row * width, *mean = m + row * width, *square = v + row * width;
        const float *from = grad + row * width;
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
            w[i] -= lr * (mean[i] / correct1) / (sqrtf(square[i] / correct2) + eps);
            norm += w[i] * w[i];
        }
        if (project) {
            float inverse = 1.0f / fmaxf(sqrtf(norm), 1e-12f);
#pragma omp simd
            for (int64_t i = 0; i < width; i++) w[i] *= inverse;
        }
    }
}
