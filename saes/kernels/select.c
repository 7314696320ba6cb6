// The k largest pre-activations of each token on a CPU, exactly or by way of bfloat16. The eager twins say what each
// function computes. Each token is served by one thread, so results do not depend on the number of threads.

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

// Compilers split these vectors where registers are shorter.
#define LANES 16
typedef float vec __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t bits32 __attribute__((may_alias));

#define CHUNK 64      // values of a row that are looked at together; a lane's maximum is over CHUNK / LANES of them
#define GROUP 8       // chunks over which maxima are taken for the bound
#define HALVINGS 14   // of the interval in which the bound is sought
#define AHEAD 2048    // values that are asked of memory early

// What one thread works with: rows are filled up with -inf to whole groups of chunks.
struct space {
    float *row, *upper, *maxima, *groups, *values;
    int32_t *places;
    int64_t chunks;
};

static struct space space_for(int64_t width) {
    int64_t chunks = (width + CHUNK - 1) / CHUNK;
    chunks = (chunks + GROUP - 1) / GROUP * GROUP;
    int64_t full = chunks * CHUNK;
    struct space s = {.chunks = chunks};
    s.row = malloc(sizeof(float) * (3 * full + chunks * LANES + chunks / GROUP * LANES) + sizeof(int32_t) * (full + LANES));
    s.upper = s.row + full;
    s.values = s.upper + full;
    s.maxima = s.values + full;
    s.groups = s.maxima + chunks * LANES;
    s.places = (int32_t *)(s.groups + chunks / GROUP * LANES);
    for (int64_t i = width; i < full; i++) s.row[i] = s.upper[i] = -INFINITY;
    return s;
}

static inline vec load(const float *from) { return *(const vec *)from; }

static inline void raise_to(vec *most, const vec *x) {
    ivec above = *x > *most;
    *most = (vec)((above & (ivec)*x) | (~above & (ivec)*most));
}

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

// The largest of each lane of each chunk of a row.
static void maxima_of(const float *x, struct space s) {
    for (int64_t c = 0; c < s.chunks; c++) {
        vec most = load(x + c * CHUNK);
        for (int64_t i = LANES; i < CHUNK; i += LANES) {
            vec next = load(x + c * CHUNK + i);
            raise_to(&most, &next);
        }
        *(vec *)(s.maxima + c * LANES) = most;
    }
}

// A value that at least k of n reach, and hardly more, or just k if ``exactly``: to find the k-th largest itself takes
// branches that cannot be foretold, so that is left to the few cases where this does not.
static float reached_by(float *values, int64_t n, int64_t k, int exactly) {
    float low = INFINITY, high = -INFINITY;
#pragma omp simd reduction(min : low) reduction(max : high)
    for (int64_t i = 0; i < n; i++) {
        low = values[i] < low ? values[i] : low;
        high = values[i] > high ? values[i] : high;
    }
    if (n == k) return low;
    for (int step = 0; step < (exactly ? 2 * HALVINGS : HALVINGS); step++) {
        float middle = 0.5f * low + 0.5f * high;
        int32_t count = 0;
#pragma omp simd reduction(+ : count)
        for (int64_t i = 0; i < n; i++) count += values[i] >= middle;
        if (count == k) return middle;
        low = count > k ? middle : low;
        high = count > k ? high : middle;
    }
    return exactly ? kth_largest(values, n, k) : low;
}

// Places of the values of a row that are at least ``bound``, rising; returns how many. The maxima are those of the row.
static int64_t at_least(const float *x, float bound, struct space s) {
    int64_t found = 0;
#ifdef __AVX512F__
    __m512 least = _mm512_set1_ps(bound);
    __m512i steps = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    for (int64_t c = 0; c < s.chunks; c++) {
        if (!_mm512_cmp_ps_mask(_mm512_loadu_ps(s.maxima + c * LANES), least, _CMP_GE_OQ)) continue;
        for (int64_t i = c * CHUNK; i < (c + 1) * CHUNK; i += LANES) {
            __mmask16 mask = _mm512_cmp_ps_mask(_mm512_loadu_ps(x + i), least, _CMP_GE_OQ);
            __m512i here = _mm512_add_epi32(steps, _mm512_set1_epi32((int32_t)i));
            _mm512_storeu_si512(s.places + found, _mm512_maskz_compress_epi32(mask, here));
            found += __builtin_popcount(mask);
        }
    }
#else
    for (int64_t c = 0; c < s.chunks; c++) {
        int any = 0;
#pragma omp simd reduction(| : any)
        for (int64_t i = c * LANES; i < (c + 1) * LANES; i++) any |= s.maxima[i] >= bound;
        for (int64_t i = c * CHUNK; any && i < (c + 1) * CHUNK; i++) {
            s.places[found] = (int32_t)i;
            found += x[i] >= bound;
        }
    }
#endif
    return found;
}

// A value that just k of a row of finite values reach, or of equal ones at the edge the edge. A bound from below that
// follows from maxima of groups leaves few values to look at: ``places`` afterwards holds those, ``*found`` their number.
static float edge_of(const float *x, int64_t width, int64_t k, struct space s, int64_t *found) {
    int64_t groups = s.chunks / GROUP * LANES, real = 0;
    maxima_of(x, s);
    for (int64_t c = 0; c < s.chunks; c += GROUP) {
        vec most = load(s.maxima + c * LANES);
        for (int64_t i = 1; i < GROUP; i++) {
            vec next = load(s.maxima + (c + i) * LANES);
            raise_to(&most, &next);
        }
        *(vec *)(s.groups + c / GROUP * LANES) = most;
    }
    // the filling makes some groups -inf: they cannot bear witness
    for (int64_t i = 0; i < groups; i++)
        if (s.groups[i] > -INFINITY) s.groups[real++] = s.groups[i];
    if (real >= k) {
        *found = at_least(x, reached_by(s.groups, real, k, 0), s);
    } else {
        for (int64_t i = 0; i < width; i++) s.places[i] = (int32_t)i;
        *found = width;
    }
    for (int64_t i = 0; i < *found; i++) s.values[i] = x[s.places[i]];
    return reached_by(s.values, *found, k, 1);
}

// Of the places, which rise, the k with the largest values; of equal ones at the edge those with the lowest index.
static void keep(const float *x, const int32_t *places, int64_t found, float edge, int64_t k, int64_t *indices,
                 float *values) {
    int64_t above = 0, taken = 0;
    for (int64_t i = 0; i < found; i++) above += x[places[i]] > edge;
    int64_t equal = k - above;
    for (int64_t i = 0; i < found && taken < k; i++) {
        float value = x[places[i]];
        if (value > edge || (value == edge && equal-- > 0)) {
            indices[taken] = places[i];
            values[taken++] = value;
        }
    }
}

// A row with a NaN or an infinity in it gives NaN, so that it shows in the loss.
static void spoil(int64_t k, int64_t *indices, float *values) {
    for (int64_t i = 0; i < k; i++) {
        indices[i] = i;
        values[i] = NAN;
    }
}

// The k largest of each row of pre + bias, by rising index. ``bias`` may be null.
void topk(const float *pre, const float *bias, int64_t rows, int64_t width, int64_t k, int64_t *indices, float *values) {
#pragma omp parallel
    {
        struct space s = space_for(width);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            const float *x = pre + row * width;
            float odd = 0.0f;  // NaN as soon as one of them is not finite
            int64_t i = 0;
            vec strange = {0};
            for (; i + LANES <= width; i += LANES) {
                vec value = load(x + i);
                if (bias) value += load(bias + i);
                *(vec *)(s.row + i) = value;
                strange += 0.0f * value;
                __builtin_prefetch(x + i + AHEAD);
            }
            for (; i < width; i++) {
                s.row[i] = bias ? x[i] + bias[i] : x[i];
                odd += 0.0f * s.row[i];
            }
            for (int lane = 0; lane < LANES; lane++) odd += strange[lane];
            if (odd != 0.0f) {
                spoil(k, indices + row * k, values + row * k);
                continue;
            }
            int64_t found;
            float edge = edge_of(s.row, width, k, s, &found);
            keep(s.row, s.places, found, edge, k, indices + row * k, values + row * k);
        }
        free(s.row);
    }
}

// Rows in bfloat16, rounded to nearest, with the norm of each row and the norm of what rounding changed in it.
void to_bf16(const float *x, int64_t rows, int64_t width, uint16_t *rounded, float *norms, float *changes) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const float *from = x + row * width;
        uint16_t *to = rounded + row * width;
        float norm = 0.0f, change = 0.0f;
#pragma omp simd reduction(+ : norm, change)
        for (int64_t i = 0; i < width; i++) {
            uint32_t bits, back;
            float value = from[i], near;
            memcpy(&bits, &value, 4);
            bits = value != value ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
            to[i] = (uint16_t)bits;
            back = bits << 16;
            memcpy(&near, &back, 4);
            norm += value * value;
            change += (value - near) * (value - near);
        }
        norms[row] = sqrtf(norm);
        changes[row] = sqrtf(change);
    }
}

// From bfloat16 to float32.
static void widen(const uint16_t *restrict from, int64_t width, float *restrict to) {
    bits32 *bits = (bits32 *)to;
    for (int64_t i = 0; i < width; i++) bits[i] = (uint32_t)from[i] << 16;
}

// The k largest of each row of x W^T + bias, where ``pre`` is that product in bfloat16, without the bias: of latent i of a
// row it is taken to be off by at most norm(x) slack_i + |pre_i| / 500, since pre was rounded last. All that can be among
// the k largest then are candidates, and are scored anew in float32.
void rescored_topk(const uint16_t *pre, const float *bias, const float *x, const float *W, const float *norms,
                   const float *slack, int64_t rows, int64_t width, int64_t d_in, int64_t k,
                   int64_t *indices, float *values) {
#pragma omp parallel
    {
        struct space s = space_for(width);
#pragma omp for schedule(dynamic, 16)
        for (int64_t row = 0; row < rows; row++) {
            const uint16_t *p = pre + row * width;
            const float *in = x + row * d_in;
            float odd = 0.0f, norm = norms[row];
            widen(p, width, s.row);
#pragma omp simd
            for (int64_t i = 0; i < width; i++) {
                float near = s.row[i], off = norm * slack[i] + fabsf(near) * (1.0f / 500);
                s.upper[i] = near + bias[i] + off;
                s.row[i] = near + bias[i] - off;
            }
#pragma omp simd reduction(+ : odd)
            for (int64_t i = 0; i < width; i++) odd += 0.0f * s.row[i];
            if (odd != 0.0f) {
                spoil(k, indices + row * k, values + row * k);
                continue;
            }
            int64_t found;
            float edge = edge_of(s.row, width, k, s, &found);  // k latents are certain to reach it
            maxima_of(s.upper, s);
            found = at_least(s.upper, edge, s);
            for (int64_t c = 0; c < found; c++) {
                const float *w = W + s.places[c] * d_in;
                float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
                for (int64_t i = 0; i < d_in; i++) dot += in[i] * w[i];
                s.row[s.places[c]] = s.values[c] = dot + bias[s.places[c]];
            }
            edge = reached_by(s.values, found, k, 1);
            keep(s.row, s.places, found, edge, k, indices + row * k, values + row * k);
        }
        free(s.row);
    }
}
