/* Weights that are float, bfloat16 with -DWEIGHTS_BFLOAT16 or half precision with -DWEIGHTS_FLOAT16: how they are packed
   and multiplied with.

   A panel is (inputs / DEPTH, PANEL, DEPTH). With -DROUNDS_TO_BFLOAT16, where the processor multiplies pairs of
   bfloat16, products round their inputs to it, as torch does; in all other cases they are those of float. */

#include "team.h"
#include "vectors.h"

#if defined(ROUNDS_TO_BFLOAT16) && defined(__AVX512BF16__)
#define DEPTH 2 /* inputs that one instruction takes */
#define ROUNDS 1
#else
#define DEPTH 1
#define ROUNDS 0
#endif
#define LINE 64 /* inputs that are packed together */

#ifdef WEIGHTS_BFLOAT16
typedef uint16_t weight_t;
#define widen_weight widen_bfloat16
#elif defined(WEIGHTS_FLOAT16)
typedef uint16_t weight_t;
#define widen_weight widen_float16
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
#elif defined(WEIGHTS_FLOAT16)
INLINE weight_vec load_weights(const weight_t *from) { return load_float16(from); }
#else
INLINE weight_vec load_weights(const weight_t *from) { return load_float(from); }
#endif
INLINE vec multiply_add(vec sum, weight_vec weights, const float *x) { return sum + weights * *x; }
#endif

/* Inputs as floats that `round_inputs` rounded; in `room`, where they are none. */
#if DEPTH == 2
INLINE const float *wide_inputs(const float *row, long size, float *room) {
    const uint16_t *rounded = (const uint16_t *)(const void *)row;
    long i = 0;
    for (; i + LANES <= size; i += LANES) *(vec *)(room + i) = load_bfloat16(rounded + i);
    for (; i < size; i++) room[i] = widen_bfloat16(rounded[i]);
    return room;
}
#else
INLINE const float *wide_inputs(const float *row, long size, float *room) { return (void)size, (void)room, row; }
#endif

/* Floats that a row of inputs needs room for. */
static long row_size(long inputs) { return inputs; }

/* Elements that a panel takes, and those that `tile` reads at a time. */
static long panel_size(int bits, long inputs) { return (void)bits, PANEL * inputs; }
#define STRIP (PANEL * DEPTH)

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
void pack(Team *team, int64_t bits, const void *rows, const void *scales, int64_t num_rows, int64_t inputs,
          int64_t first, void *packed) {
    (void)bits, (void)scales; /* of integers */
    Packing packing = {rows, num_rows, inputs, first, packed};
    team_run(team, team->size, pack_panels, &packing);
}

/* A row of a packed matrix as floats. */
static void unpack_row(int bits, const weight_t *packed, long inputs, long row, float *out) {
    (void)bits;
    packed += row / PANEL * PANEL * inputs + row % PANEL * DEPTH;
    for (long i = 0; i < inputs; i++) out[i] = widen_weight(packed[i / DEPTH * PANEL * DEPTH + i % DEPTH]);
}

/* `ahead` is fetched meanwhile, `stride` bytes further with each step. */
INLINE void tile(const int weight_bits, const int rows, const float *x, long x_stride, const weight_t *panel, long depth,
                 const float *bias, int adds, float *out, long out_stride, const char *ahead, long stride) {
    (void)weight_bits;
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
