// The largest pre-activations of a whole batch on a CPU (batch top-k). One reading of all of them leaves few candidates;
// which, does not depend on the number of threads.

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define LANES 16
#define CHUNK 64         // values that are looked at together where there is no instruction that packs them
#define AHEAD 2048       // values that are asked of memory early
#define BINS 65536       // of a histogram of half of the bits of a float
#define SAMPLED_ROWS 64  // from which the bound is guessed
#define MARGIN 1.5       // times as many candidates as are wanted, if the sample is like the rest

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// The highest bin that, with those above it, holds at least ``wanted``, or -1; ``*above`` is what lies above it.
static int64_t bin_of(const int32_t *counts, int64_t wanted, int64_t *above) {
    *above = 0;
    for (int64_t bin = BINS - 1; bin >= 0; bin--) {
        if (*above + counts[bin] >= wanted) return bin;
        *above += counts[bin];
    }
    return -1;
}

// The k-th largest of n values of which none is negative: their order is that of their bits. NaN counts as largest.
static float kth_of(const float *values, int64_t n, int64_t k, int32_t *counts) {
    int64_t above, rest;
    memset(counts, 0, sizeof(int32_t) * BINS);
    for (int64_t i = 0; i < n; i++) counts[bits_of(values[i]) >> 16]++;
    uint32_t high = (uint32_t)bin_of(counts, k, &above);
    memset(counts, 0, sizeof(int32_t) * BINS);
    for (int64_t i = 0; i < n; i++)
        if (bits_of(values[i]) >> 16 == high) counts[bits_of(values[i]) & 0xffff]++;
    return float_of(high << 16 | (uint32_t)bin_of(counts, k - above, &rest));
}

// A value that about ``wanted`` of all rows exceed, by a sample of them; 0 if fewer are positive.
static float guessed(const float *pre, const float *bias, int64_t rows, int64_t width, double wanted, int32_t *counts) {
    int64_t sampled = rows < SAMPLED_ROWS ? rows : SAMPLED_ROWS, above;
    memset(counts, 0, sizeof(int32_t) * BINS);
    for (int64_t s = 0; s < sampled; s++) {
        const float *x = pre + s * rows / sampled * width;
        for (int64_t i = 0; i < width; i++) {
            float value = x[i] + bias[i];
            counts[bits_of(value > 0.0f ? value : 0.0f) >> 16]++;
        }
    }
    counts[0] = 0;  // those that are not active
    int64_t bin = bin_of(counts, (int64_t)ceil(wanted * sampled / rows), &above);
    return bin > 0 ? float_of((uint32_t)bin << 16) : 0.0f;
}

// Places and values of a row of pre + bias above ``under``, rising; returns how many. A row with a NaN or an infinity in
// it has one value, NaN, so that it shows in the loss. There is room for the row.
static int64_t candidates(const float *x, const float *bias, int64_t width, float under, int32_t *places, float *values) {
    int64_t found = 0, i = 0;
    float odd = 0.0f;  // NaN as soon as one of them is not finite
#ifdef __AVX512F__
    __m512 bound = _mm512_set1_ps(under), zero = _mm512_setzero_ps(), strange = zero;
    __m512i steps = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    for (; i + LANES <= width; i += LANES) {
        __m512 value = _mm512_add_ps(_mm512_loadu_ps(x + i), _mm512_loadu_ps(bias + i));
        __builtin_prefetch(x + i + AHEAD);
        strange = _mm512_fmadd_ps(value, zero, strange);
        __mmask16 mask = _mm512_cmp_ps_mask(value, bound, _CMP_GT_OQ);
        if (!mask) continue;
        __m512i here = _mm512_add_epi32(steps, _mm512_set1_epi32((int32_t)i));
        _mm512_mask_compressstoreu_epi32(places + found, mask, here);
        _mm512_mask_compressstoreu_ps(values + found, mask, value);
        found += __builtin_popcount(mask);
    }
    odd = _mm512_reduce_add_ps(strange);
#else
    for (; i + CHUNK <= width; i += CHUNK) {
        int any = 0;
#pragma omp simd reduction(| : any) reduction(+ : odd)
        for (int64_t j = i; j < i + CHUNK; j++) {
            float value = x[j] + bias[j];
            any |= value > under;
            odd += 0.0f * value;
        }
        for (int64_t j = i; any && j < i + CHUNK; j++) {
            places[found] = (int32_t)j;
            values[found] = x[j] + bias[j];
            found += values[found] > under;
        }
    }
#endif
    for (; i < width; i++) {
        float value = x[i] + bias[i];
        odd += 0.0f * value;
        if (value > under) {
            places[found] = (int32_t)i;
            values[found++] = value;
        }
    }
    if (odd == 0.0f) return found;
    places[0] = 0;
    values[0] = NAN;
    return 1;
}

// What is certain to hold the ``total`` largest positive values of pre + bias: those of a row lie at starts[row], counts[row]
// of them. facts[0]: how many there are; if that exceeds the room, nothing else is of use. facts[1]: the most of a row that
// reach ``edge``, the least of the largest (0 if fewer are positive).
void batch_candidates(const float *pre, const float *bias, int64_t rows, int64_t width, int64_t total, int64_t room,
                      int32_t *places, float *values, int64_t *starts, int64_t *counts, int64_t *facts, float *edge) {
    int32_t *histogram = malloc(sizeof(int32_t) * BINS);
    int64_t used = 0, most = 1;
    for (double wanted = MARGIN * total;; wanted *= 4) {
        float bound = guessed(pre, bias, rows, width, wanted, histogram);
        float under = bound > 0.0f ? nextafterf(bound, 0.0f) : 0.0f;
        used = 0;
#pragma omp parallel
        {
            int32_t *row_places = malloc((sizeof(int32_t) + sizeof(float)) * (width + LANES));
            float *row_values = (float *)(row_places + width + LANES);
#pragma omp for schedule(static)
            for (int64_t row = 0; row < rows; row++) {
                int64_t found = candidates(pre + row * width, bias, width, under, row_places, row_values), start;
#pragma omp atomic capture
                {
                    start = used;
                    used += found;
                }
                starts[row] = start;
                counts[row] = found;
                if (start + found > room) continue;
                memcpy(places + start, row_places, sizeof(int32_t) * found);
                memcpy(values + start, row_values, sizeof(float) * found);
            }
            free(row_places);
        }
        if (used >= total || bound == 0.0f) break;
    }
    facts[0] = used;
    if (used <= room) {
        *edge = used > total ? kth_of(values, used, total, histogram) : 0.0f;
        for (int64_t row = 0; row < rows; row++) {
            int64_t kept = 0;
            for (int64_t i = starts[row]; i < starts[row] + counts[row]; i++) kept += !(values[i] < *edge);
            most = kept > most ? kept : most;
        }
        facts[1] = most;
    }
    free(histogram);
}

// Of the candidates, those that reach the edge, by rising latent; each row is filled up to ``most`` with zeros at the lowest
// other latents, whose weights are then in the cache. ``*least``: the least of them, or infinite.
void batch_filled(const int32_t *places, const float *values, const int64_t *starts, const int64_t *counts, float edge,
                  int64_t rows, int64_t most, int64_t *indices, float *out, float *least) {
    *least = INFINITY;
    for (int64_t row = 0; row < rows; row++) {
        int64_t *these = indices + row * most, kept = 0, passed = 0;
        float *those = out + row * most;
        for (int64_t i = starts[row]; i < starts[row] + counts[row]; i++)
            if (!(values[i] < edge)) {
                these[kept] = places[i];
                those[kept++] = values[i];
                if (values[i] < *least) *least = values[i];
            }
        int64_t taken = kept;
        for (int64_t latent = 0; taken < most; latent++) {
            if (passed < kept && these[passed] == latent) {
                passed++;
                continue;
            }
            these[taken] = latent;
            those[taken++] = 0.0f;
        }
    }
}
