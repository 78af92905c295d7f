/* How weights are stored, packed and multiplied with.

   Weights lie in panels of PANEL outputs: (outputs / PANEL, inputs / DEPTH, PANEL, DEPTH), padded with zeros, so that a
   product streams through them once and keeps ROWS x PANEL sums in registers. They are float, or bfloat16 with
   -DWEIGHTS_BFLOAT16; keys and values likewise with -DMEMORY_BFLOAT16. With both, where the processor multiplies pairs
   of bfloat16, products round their inputs to it, as torch does; in all other cases they are those of float. */

#include <stdint.h>
#include <string.h>

#include "team.h"

#if defined(WEIGHTS_BFLOAT16) && defined(MEMORY_BFLOAT16) && defined(__AVX512BF16__)
#include <immintrin.h>
#define DEPTH 2 /* inputs that one instruction takes */
#else
#define DEPTH 1
#endif
#if defined(__AVX512F__)
#define LANES 16
#define ROWS 8
#elif defined(__AVX__)
#define LANES 8
#define ROWS 6
#else
#define LANES 4
#define ROWS 8
#endif
#define VECTORS 2
#define PANEL (LANES * VECTORS)
#define LINE 64 /* inputs that are packed together */
#define AHEAD 8192 /* bytes */
#define CHUNK 131072 /* bytes, about */
#define INLINE static inline __attribute__((always_inline))
#define PADDED(n, to) (((n) + (to) - 1) / (to) * (to))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t bits __attribute__((may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t short_vec __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

INLINE vec load_float(const float *from) { return *(const vec *)from; }
INLINE vec load_bfloat16(const uint16_t *from) {
    return (vec)(__builtin_convertvector(*(const short_vec *)from, ivec) << 16);
}
INLINE float widen_bfloat16(uint16_t value) {
    const uint32_t bits = (uint32_t)value << 16;
    float wide;
    memcpy(&wide, &bits, 4);
    return wide;
}
INLINE uint16_t narrow_to_bfloat16(float value) { /* to the nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return value != value ? 0x7fc0 : (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

#ifdef WEIGHTS_BFLOAT16
typedef uint16_t weight_t;
#define widen_weight widen_bfloat16
#else
typedef float weight_t;
#define widen_weight(value) (value)
#endif

/* A row of a product's inputs is multiplied in steps of DEPTH, each as wide as a float. */
#if DEPTH == 2
INLINE void round_inputs(float *row, long size) {
    long i = 0;
    for (; i + LANES <= size; i += LANES) /* in place: what is written lies before what is read next */
        _mm256_storeu_si256((__m256i *)((char *)row + 2 * i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(row + i)));
    for (; i < size; i++) {
        const uint16_t value = narrow_to_bfloat16(row[i]);
        memcpy((char *)row + 2 * i, &value, 2);
    }
}
typedef ivec weight_vec;
INLINE weight_vec load_weights(const weight_t *from) { return *(const ivec *)from; }
INLINE vec multiply_add(vec sum, weight_vec weights, const float *x) {
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)weights, (__m512bh)_mm512_set1_epi32(*(const bits *)x));
}
#else
INLINE void round_inputs(float *row, long size) { (void)row, (void)size; }
typedef vec weight_vec;
#ifdef WEIGHTS_BFLOAT16
INLINE weight_vec load_weights(const weight_t *from) { return load_bfloat16(from); }
#else
INLINE weight_vec load_weights(const weight_t *from) { return load_float(from); }
#endif
INLINE vec multiply_add(vec sum, weight_vec weights, const float *x) { return sum + weights * *x; }
#endif

int64_t panel_width(void) { return PANEL; }

/* Elements that a matrix takes. */
int64_t packed_size(int64_t outputs, int64_t inputs) { return PADDED(outputs, PANEL) * inputs; }

typedef struct {
    const weight_t *rows;
    long num_rows, inputs, first;
    weight_t *packed;
} Packing;

static void pack_panels(Team *team, int index, void *arguments) {
    (void)index;
    const Packing p = *(Packing *)arguments;
    const long begin = p.first / PANEL, end = (p.first + p.num_rows + PANEL - 1) / PANEL;
    SHARED(team, n, end - begin, 4) {
        const long start = (begin + n) * PANEL; /* output of the panel's first column */
        const long from = start < p.first ? p.first - start : 0;
        const long to = p.first + p.num_rows - start < PANEL ? p.first + p.num_rows - start : PANEL;
        for (long at = 0; at < p.inputs; at += LINE) /* some of each row at a time: what is read and written stays near */
            for (long column = from; column < to; column++) {
                const weight_t *row = p.rows + (start + column - p.first) * p.inputs;
                weight_t *packed = p.packed + start * p.inputs + column * DEPTH;
                for (long i = at; i < at + LINE && i < p.inputs; i += DEPTH)
                    memcpy(packed + i * PANEL, row + i, DEPTH * sizeof(weight_t));
            }
    }
    barrier(team);
}

/* Copies a matrix (num_rows, inputs) into a packed one, whose outputs it becomes from `first` on. */
void pack(Team *team, const void *rows, int64_t num_rows, int64_t inputs, int64_t first, void *packed) {
    Packing packing = {rows, num_rows, inputs, first, packed};
    team_run(team, team->size, pack_panels, &packing);
}

/* A row of a packed matrix as floats. */
static void unpack_row(const weight_t *packed, long inputs, long row, float *out) {
    packed += row / PANEL * PANEL * inputs + row % PANEL * DEPTH;
    for (long i = 0; i < inputs; i++) out[i] = widen_weight(packed[i / DEPTH * PANEL * DEPTH + i % DEPTH]);
}

/* `ahead` is fetched meanwhile, `stride` bytes further with each step. */
INLINE void tile(const int rows, const float *x, long x_stride, const weight_t *panel, long depth, const float *bias,
                 int adds, float *out, long out_stride, const char *ahead, long stride) {
    vec sums[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++)
            sums[m][v] = adds ? *(vec *)(out + m * out_stride + v * LANES)
                              : bias ? *(const vec *)(bias + v * LANES) : (vec){0};
    for (long k = 0; k < depth / DEPTH; k++, panel += PANEL * DEPTH) {
        weight_vec weights[VECTORS];
        __builtin_prefetch(ahead + k * stride, 0, 2);
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) weights[v] = load_weights(panel + v * LANES * DEPTH);
#pragma GCC unroll 8
        for (int m = 0; m < rows; m++)
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++) sums[m][v] = multiply_add(sums[m][v], weights[v], x + m * x_stride + k);
    }
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) *(vec *)(out + m * out_stride + v * LANES) = sums[m][v];
}

/* out (rows, width) = x (rows, depth), rounded, times packed weights, or added to what is there; in whole panels.

   Weights come from beyond the caches, and the processor itself fetches only to the end of a page: left to it, six rows
   would take twice the time. With one group of rows, what lies AHEAD is fetched; a thread takes several panels that
   lie one after the other, as what it fetches at their end is another's. With several groups, a part of the panel after
   this one is fetched beside each. */
static void multiply(Team *team, long rows, const float *x, long x_stride, const weight_t *packed, long depth,
                     long width, const float *bias, int adds, float *out, long out_stride) {
    if (!rows) return;
    const long num_panels = width / PANEL, groups = (rows + ROWS - 1) / ROWS, step = PANEL * DEPTH * sizeof(weight_t);
    const long stride = step / groups, wanted = groups == 1 ? 1 + CHUNK / (depth / DEPTH * step) : 1;
    const long shares = 4 * team->num_active, most = (num_panels + shares - 1) / shares;
    const long chunk = wanted < most ? wanted : most;
    SHARED(team, n, num_panels, chunk) {
        const weight_t *panel = packed + n * PANEL * depth;
        const float *own_bias = bias ? bias + n * PANEL : 0;
        const long next = n + team->num_active < num_panels ? n + team->num_active : n;
        const char *ahead = groups == 1 ? (const char *)panel + AHEAD : (const char *)(packed + next * PANEL * depth);
        for (long m = 0; m < rows; m += ROWS, ahead += depth / DEPTH * stride) {
            const float *from = x + m * x_stride;
            float *to = out + m * out_stride + n * PANEL;
#define CASE(count) \
    case count: tile(count, from, x_stride, panel, depth, own_bias, adds, to, out_stride, ahead, stride); break;
            switch (rows - m) {
                CASE(1) CASE(2) CASE(3) CASE(4) CASE(5)
#if ROWS > 6
                CASE(6) CASE(7)
#endif
                default: tile(ROWS, from, x_stride, panel, depth, own_bias, adds, to, out_stride, ahead, stride);
            }
        }
    }
    barrier(team);
}
