// Whether chosen latents are among the k largest of a token: the others are scored one by one until k larger ones are
// found, which for most latents is soon. `larger_than` in chosen.py says what it computes.

#include <stdint.h>
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

// latents: n for each token; chosen: their pre-activations; larger: how many others are found larger, at least k where
// it is not among the k largest (and k at once where it is not positive)
void larger_than(const float *x, const float *W, const float *b, const int64_t *latents, const float *chosen,
                 int64_t tokens, int64_t d_sae, int64_t width, int64_t n, int64_t k, float *larger) {
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t token = 0; token < tokens; token++) {
        const int64_t *own = latents + token * n;
        const float *values = chosen + token * n;
        float *counts = larger + token * n;
        for (int64_t i = 0; i < n; i++) counts[i] = values[i] > 0.0f ? 0.0f : (float)k;
        for (int64_t first = 0; first < d_sae; first += TOGETHER) {
            int64_t open = 0;
            for (int64_t i = 0; i < n; i++) open += counts[i] < (float)k;
            if (!open) break;
            float scores[TOGETHER];
            int64_t many = d_sae - first < TOGETHER ? d_sae - first : TOGETHER;
            if (many == TOGETHER) score(x + token * width, W + first * width, b + first, width, scores);
            else for (int64_t i = 0; i < many; i++) {
                scores[i] = b[first + i];
                for (int64_t j = 0; j < width; j++) scores[i] += x[token * width + j] * W[(first + i) * width + j];
            }
            for (int64_t i = 0; i < n; i++)
                for (int64_t j = 0; j < many; j++) counts[i] += (first + j != own[i]) & (scores[j] > values[i]);
        }
    }
}
