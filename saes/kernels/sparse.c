// Reconstruction and gradients on a CPU. Row-major float32 arrays; the eager twins say what each computes.
// Every output element is written by one thread and summed in a fixed order, so results do not depend on the threads.

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// Sums are kept in registers for a strip of columns at a time; compilers split this vector where registers are shorter.
typedef float vec __attribute__((vector_size(64), aligned(4), may_alias));
#define LANES 16
#define VECS 8
#define STRIP (LANES * VECS)
#define SOON 4  // latents ahead of the one that is summed, whose sums are asked of memory

static inline vec load(const float *from) { return *(const vec *)from; }

// Ask memory early for a strip: rows lie too far apart for the processor to foresee which is next.
static inline void ask(const float *strip) {
    for (int v = 0; v < VECS; v++) __builtin_prefetch(strip + v * LANES, 0, 2);
}

// out[i] += sum_j a_j rows_j[i] for a strip of columns; the rows are those of W at the given indices. Meanwhile the
// same strip of the rows that come next is asked for.
static void add_rows(float *out, const float *a, const int64_t *indices, int64_t k, const float *W, int64_t width,
                     const int64_t *next) {
    vec sums[VECS];
    for (int v = 0; v < VECS; v++) sums[v] = load(out + v * LANES);
    for (int64_t j = 0; j < k; j++) {
        const float *w = W + indices[j] * width;
        ask(W + next[j] * width);
        for (int v = 0; v < VECS; v++) sums[v] += a[j] * load(w + v * LANES);
    }
    for (int v = 0; v < VECS; v++) *(vec *)(out + v * LANES) = sums[v];
}

// Per row: error = bias + sum_j values_j W[indices_j] - target; g = scale * error; grad_j = g . W[indices_j].
// Returns the sum of squared errors of each row. The rows of W are read twice while they are in the cache; those that
// only fill up a row, with a value of zero, at its end, once.
void reconstruct(const int64_t *indices, const float *values, const float *W, const float *bias, const float *target,
                 float scale, int64_t rows, int64_t k, int64_t width, float *g, float *grads, double *squares) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        float *out = g + row * width;
        const float *x = target + row * width, *a = values + row * k;
        const int64_t *these = indices + row * k;
        const int64_t *next = row + 1 < rows ? these + k : these;
        int64_t active = k;
        while (active > 0 && a[active - 1] == 0.0f) active--;
        for (int64_t i = 0; i < width; i++) out[i] = (bias ? bias[i] : 0.0f) - x[i];
        int64_t first = 0;
        for (; first + STRIP <= width; first += STRIP) add_rows(out + first, a, these, active, W + first, width, next);
        for (int64_t j = 0; j < active; j++) {
            const float *w = W + these[j] * width;
            for (int64_t i = first; i < width; i++) out[i] += a[j] * w[i];
        }
        double total = 0.0;
#pragma omp simd reduction(+ : total)
        for (int64_t i = 0; i < width; i++) {
            total += (double)out[i] * out[i];
            out[i] *= scale;
        }
        squares[row] = total;
        for (int64_t j = 0; j < k; j++) {
            const float *w = W + these[j] * width;
            float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
            for (int64_t i = 0; i < width; i++) dot += out[i] * w[i];
            grads[row * k + j] = dot;
        }
    }
}

// The pairs (row, j) in the order of their latent: those of latent i lie from starts[i] to starts[i + 1] - 1. Pairs that add
// nothing are left out.
static void by_latent(const int64_t *indices, const float *values, const float *grads, int64_t rows, int64_t k,
                      int64_t latents, int64_t *starts, int32_t *row_of, float *value_of, float *grad_of) {
    int64_t *next = malloc(sizeof(int64_t) * latents);
    memset(starts, 0, sizeof(int64_t) * (latents + 1));
    for (int64_t p = 0; p < rows * k; p++) starts[indices[p] + 1] += values[p] != 0.0f || grads[p] != 0.0f;
    for (int64_t i = 0; i < latents; i++) starts[i + 1] += starts[i];
    memcpy(next, starts, sizeof(int64_t) * latents);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t p = row * k; p < (row + 1) * k; p++) {
            if (values[p] == 0.0f && grads[p] == 0.0f) continue;
            int64_t place = next[indices[p]]++;
            row_of[place] = (int32_t)row;
            value_of[place] = values[p];
            grad_of[place] = grads[p];
        }
    free(next);
}

// sums[i] = sum of weights_p table[row_p] over the pairs p of latent i, added to what is there if asked to; squares[i] is
// raised by its sum of squares. The table is copied strip by strip, since a strip of it fits into the second-level cache
// and the whole does not.
static void sum_rows(const int64_t *starts, const int32_t *row_of, const float *weights, const float *table, int64_t rows,
                     int64_t latents, int64_t width, int64_t add, float *sums, float *squares, float *strip) {
    for (int64_t first = 0; first < width; first += STRIP) {
        int64_t columns = width - first < STRIP ? width - first : STRIP;
#pragma omp parallel
        {
#pragma omp for schedule(static)
            for (int64_t row = 0; row < rows; row++) {
                memcpy(strip + row * STRIP, table + row * width + first, sizeof(float) * columns);
                if (columns < STRIP) memset(strip + row * STRIP + columns, 0, sizeof(float) * (STRIP - columns));
            }
#pragma omp for schedule(dynamic, 64)
            for (int64_t latent = 0; latent < latents; latent++) {
                float *out = sums + latent * width + first, total[STRIP], square = 0.0f;
                if (latent + SOON < latents)
                    for (int64_t i = 0; i < columns; i += LANES) __builtin_prefetch(out + SOON * width + i, 1, 2);
                vec acc[VECS];
                if (add) {
                    for (int64_t i = 0; i < STRIP; i++) total[i] = i < columns ? out[i] : 0.0f;
                    for (int v = 0; v < VECS; v++) acc[v] = load(total + v * LANES);
                } else {
                    for (int v = 0; v < VECS; v++) acc[v] = (vec){0};
                }
                for (int64_t place = starts[latent]; place < starts[latent + 1]; place++) {
                    const float *from = strip + (int64_t)row_of[place] * STRIP;
                    float a = weights[place];
                    for (int v = 0; v < VECS; v++) acc[v] += a * load(from + v * LANES);
                }
                for (int v = 0; v < VECS; v++) *(vec *)(total + v * LANES) = acc[v];
#pragma omp simd reduction(+ : square)
                for (int64_t i = 0; i < STRIP; i++) square += total[i] * total[i];
                memcpy(out, total, sizeof(float) * columns);
                squares[latent] += square;
            }
        }
    }
}

// grad_dec[i] = sum of values_p g[row_p] and grad_enc[i] = sum of grads_p x[row_p] over the pairs p of latent i;
// grad_bias[i] = sum of grads_p, radial[i] = sum of values_p grads_p. squares[i]: of both rows together.
void weight_grads(const int64_t *indices, const float *values, const float *grads, const float *g, const float *x,
                  int64_t rows, int64_t k, int64_t latents, int64_t d_out, int64_t d_in, int64_t add, float *grad_dec,
                  float *grad_enc, float *grad_bias, float *radial, float *squares) {
    int64_t pairs = rows * k, *starts = malloc(sizeof(int64_t) * (latents + 1));
    int32_t *row_of = malloc(sizeof(int32_t) * pairs);
    float *value_of = malloc(sizeof(float) * pairs), *grad_of = malloc(sizeof(float) * pairs);
    float *strip = malloc(sizeof(float) * rows * STRIP);
    by_latent(indices, values, grads, rows, k, latents, starts, row_of, value_of, grad_of);
    memset(squares, 0, sizeof(float) * latents);
    sum_rows(starts, row_of, value_of, g, rows, latents, d_out, add, grad_dec, squares, strip);
    sum_rows(starts, row_of, grad_of, x, rows, latents, d_in, add, grad_enc, squares, strip);
    for (int64_t latent = 0; latent < latents; latent++) {
        float bias = 0.0f, along = 0.0f;
        for (int64_t place = starts[latent]; place < starts[latent + 1]; place++) {
            bias += grad_of[place];
            along += value_of[place] * grad_of[place];
        }
        grad_bias[latent] = (add ? grad_bias[latent] : 0.0f) + bias;
        radial[latent] = (add ? radial[latent] : 0.0f) + along;
    }
    free(starts);
    free(row_of);
    free(value_of);
    free(grad_of);
    free(strip);
}

// Sum of squared deviations from the mean of each column, in float64.
void variance(const float *x, int64_t rows, int64_t width, double *result) {
    double *mean = calloc(width, sizeof(double)), total = 0.0;
    for (int64_t row = 0; row < rows; row++)
#pragma omp simd
        for (int64_t i = 0; i < width; i++) mean[i] += x[row * width + i];
    for (int64_t i = 0; i < width; i++) mean[i] /= rows;
    for (int64_t row = 0; row < rows; row++)
#pragma omp simd reduction(+ : total)
        for (int64_t i = 0; i < width; i++) total += (x[row * width + i] - mean[i]) * (x[row * width + i] - mean[i]);
    free(mean);
    *result = total;
}
