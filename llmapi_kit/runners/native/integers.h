/* Weights of 8 bits, and with WEIGHT_BITS == 4 of 4 bits in some matrices: how they are packed and multiplied with.

   A weight is scale * (value - zero), with a value of no sign and one scale and zero for GROUP inputs of an output. Both
   stand in one word: a float whose lowest 8 bits are the zero, which leaves scales all of what bfloat16 and half
   precision have. With -DHAS_MINIMA a weight is scale * value - minimum, both in half precision: of a word, the lower
   half is the scale, and packed, all scales of a group stand before all minima. A panel is (inputs / GROUP, 1 + GROUP * bits / 32, PANEL) words: scales, then values. Of a word of
   values, the lower half holds those of even inputs, the upper half those of odd ones, so that shifting and masking it
   gives pairs of 16 bits, which the processor multiplies with pairs of inputs of 16 bits and sums up.

   Inputs are rounded to 16 bits, each group with a scale of its own: that changes a product by about 1e-5 of it, and
   sums of a group are exact. */

#include "team.h"
#include "vectors.h"

#ifndef GROUP
#define GROUP 32
#endif
#define ROUNDS 1
#define STRIP PANEL
#define LARGEST 32767 /* times 255, times the 128 inputs of a group, is below 2^31 */
#define MAGIC 12582912.0f /* leaves the nearest integer in the lowest bits of a sum */

typedef uint32_t weight_t;

static long num_groups(long inputs) { return (inputs + GROUP - 1) / GROUP; }

/* Floats that a row of inputs needs room for. */
static long row_size(long inputs) { return PADDED(inputs, GROUP); }

/* Words that a panel takes. */
static long panel_size(int bits, long inputs) { return num_groups(inputs) * (1 + GROUP * bits / 32) * PANEL; }

/* What a group's sum of products adds to an output's: scales of the weights at `words`, and of the inputs and their sum in
   `kept`. */
#ifdef HAS_MINIMA
typedef struct { vec scales, minima; } Scales;
INLINE Scales scales_at(const weight_t *words, int v) {
    const uint16_t *halves = (const uint16_t *)(const void *)words;
    return (Scales){load_float16(halves + v * LANES), load_float16(halves + PANEL + v * LANES)};
}
INLINE vec group_sum(vec product, Scales s, const float *kept) {
    return product * (s.scales * kept[0]) - s.minima * (kept[0] * kept[1]);
}
#else
typedef ivec Scales;
INLINE Scales scales_at(const weight_t *words, int v) { return *(const ivec *)(words + v * LANES); }
INLINE vec group_sum(vec product, Scales words, const float *kept) {
    const vec zeros = __builtin_convertvector(words & 0xff, vec);
    return (product - zeros * kept[1]) * ((vec)(words & ~0xff) * kept[0]);
}
#endif

/* Scale and minimum of a column, which stands in `words` of a group. */
static void put_scale(weight_t *words, long column, uint32_t word) {
#ifdef HAS_MINIMA
    const uint16_t halves[2] = {(uint16_t)word, (uint16_t)(word >> 16)};
    memcpy((char *)words + 2 * column, halves, 2);
    memcpy((char *)words + 2 * (PANEL + column), halves + 1, 2);
#else
    words[column] = word;
#endif
}
static void scale_of(const weight_t *words, long column, float *scale, float *minimum) {
#ifdef HAS_MINIMA
    uint16_t halves[2];
    memcpy(halves, (const char *)words + 2 * column, 2);
    memcpy(halves + 1, (const char *)words + 2 * (PANEL + column), 2);
    *scale = widen_float16(halves[0]), *minimum = widen_float16(halves[1]);
#else
    const weight_t high = words[column] & ~0xffu;
    memcpy(scale, &high, 4);
    *minimum = *scale * (words[column] & 0xff);
#endif
}

/* A row of inputs, and then scale and sum of each group: in place, as it takes half the room and 2 floats a group. See
   `row_size`. */
static void round_inputs(float *row, long size) {
    const long groups = num_groups(size);
    float kept[2 * groups];
    int16_t *rounded = (int16_t *)row;
    memset(row + size, 0, (groups * GROUP - size) * sizeof(float));
    for (long g = 0; g < groups; g++) {
        vec peaks = {0};
        for (long i = g * GROUP; i < (g + 1) * GROUP; i += LANES) {
            const vec x = *(const vec *)(row + i);
            peaks = larger(larger(x, -x), peaks);
        }
        float peak = 0;
        for (int i = 0; i < LANES; i++) peak = peaks[i] > peak ? peaks[i] : peak;
        const float inverse = peak > 0 ? LARGEST / peak : 0;
        ivec sums = {0};
        for (long i = g * GROUP; i < (g + 1) * GROUP; i += LANES) {
            const ivec values = (ivec)(*(const vec *)(row + i) * inverse + MAGIC) - 0x4b400000;
            sums += values;
            /* read from 4 * i on, written up to 2 * (i + LANES): what comes next is intact */
            *(half_vec *)(rounded + i) = __builtin_convertvector(values, half_vec);
        }
        long sum = 0;
        for (int i = 0; i < LANES; i++) sum += sums[i];
        kept[2 * g] = peak / LARGEST;
        kept[2 * g + 1] = sum;
    }
    memcpy(row + groups * GROUP / 2, kept, sizeof(kept));
}

/* Inputs as floats again, in `room`. */
static const float *wide_inputs(const float *row, long size, float *room) {
    const int16_t *rounded = (const int16_t *)(const void *)row;
    const long groups = num_groups(size);
    const float *kept = row + groups * GROUP / 2; /* scale and sum */
    for (long g = 0; g < groups; g++)
        for (long i = g * GROUP; i < (g + 1) * GROUP; i++) room[i] = rounded[i] * kept[2 * g];
    return room;
}

/* Adds products of pairs of 16 bits: of weights of LANES outputs, and of the two inputs at x. */
INLINE ivec add_products(ivec sums, ivec weights, const bits *x) {
#if defined(__AVX512VNNI__)
    return (ivec)_mm512_dpwssd_epi32((__m512i)sums, (__m512i)weights, _mm512_set1_epi32(*x));
#elif defined(__AVX512BW__)
    return sums + (ivec)_mm512_madd_epi16((__m512i)weights, _mm512_set1_epi32(*x));
#elif defined(__AVX2__) && LANES == 8
    return sums + (ivec)_mm256_madd_epi16((__m256i)weights, _mm256_set1_epi32(*x));
#else
    return sums + (weights & 0xffff) * (int16_t)*x + (weights >> 16) * (*x >> 16);
#endif
}

typedef struct {
    const uint8_t *values;
    const uint32_t *scales;
    int bits;
    long num_rows, inputs, first;
    weight_t *packed;
} Packing;

/* The values of a word's inputs, of which `count` are there. */
INLINE weight_t word_of(int bits, const uint8_t *values, long count) {
    weight_t word = 0;
    for (int i = 0; i < 32 / bits; i++)
        if (i < count) word |= (weight_t)values[i] << (i / 2 * bits + i % 2 * 16);
    return word;
}

static void pack_panels(Team *team, int index, void *arguments) {
    (void)index;
    const Packing p = *(Packing *)arguments;
    const long begin = p.first / PANEL, end = (p.first + p.num_rows + PANEL - 1) / PANEL, groups = num_groups(p.inputs);
    const long size = panel_size(p.bits, p.inputs), width = 32 / p.bits; /* inputs of a word */
    SHARED(team, n, end - begin, 4) {
        const long start = (begin + n) * PANEL; /* output of the panel's first column */
        const long from = start < p.first ? p.first - start : 0;
        const long to = p.first + p.num_rows - start < PANEL ? p.first + p.num_rows - start : PANEL;
        weight_t *packed = p.packed + start / PANEL * size;
        for (long g = 0; g < groups; g++) {
            for (long column = from; column < to; column++) {
                const long row = start + column - p.first, last = (g + 1) * GROUP;
                put_scale(packed, column, p.scales[row * groups + g]);
                for (long i = g * GROUP; i < last && i < p.inputs; i += width)
                    packed[(1 + (i - g * GROUP) / width) * PANEL + column] =
                        word_of(p.bits, p.values + row * p.inputs + i, p.inputs - i);
            }
            packed += (1 + GROUP / width) * PANEL;
        }
    }
    barrier(team);
}

/* Copies a matrix (num_rows, inputs), a byte a value, with its scales and zeros (num_rows, groups) into a packed one,
   whose outputs it becomes from `first` on. */
void pack(Team *team, int64_t bits, const void *values, const void *scales, int64_t num_rows, int64_t inputs,
          int64_t first, void *packed) {
    Packing packing = {values, scales, bits, num_rows, inputs, first, packed};
    team_run(team, team->size, pack_panels, &packing);
}

/* A row of a packed matrix as floats. */
static void unpack_row(int bits, const weight_t *packed, long inputs, long row, float *out) {
    const long width = 32 / bits;
    packed += row / PANEL * panel_size(bits, inputs);
    for (long begin = 0; begin < inputs; begin += GROUP, packed += (1 + GROUP / width) * PANEL) {
        float scale, minimum;
        scale_of(packed, row % PANEL, &scale, &minimum);
        for (long i = 0; i < GROUP && begin + i < inputs; i++) {
            const weight_t values = packed[(1 + i / width) * PANEL + row % PANEL];
            const int shift = i % width / 2 * bits + i % 2 * 16;
            out[begin + i] = scale * (values >> shift & ((1 << bits) - 1)) - minimum;
        }
    }
}

/* Fetches the lines of a strip, or the one that `stride` bytes of it lie in. */
INLINE void fetch_strip(const char *ahead, long stride) {
    __builtin_prefetch(ahead, 0, 2);
    if (stride > 64) __builtin_prefetch(ahead + 64, 0, 2);
}

/* `ahead` is fetched meanwhile, `stride` bytes further with each strip. */
INLINE void tile(const int weight_bits, const int rows, const float *x, long x_stride, const weight_t *panel, long depth,
                 const float *bias, int adds, float *out, long out_stride, const char *ahead, long stride) {
    vec sums[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++)
            sums[m][v] = adds ? *(vec *)(out + m * out_stride + v * LANES)
                              : bias ? *(const vec *)(bias + v * LANES) : (vec){0};
    const int parts = 16 / weight_bits, mask = ((1 << weight_bits) - 1) * 0x10001; /* of pairs in a word */
    const int chains = rows > 2 ? 1 : 2; /* more where there are few rows, as a sum waits for itself */
    const long groups = num_groups(depth);
    for (long g = 0; g < groups; g++) {
        const float *kept = x + groups * GROUP / 2 + 2 * g; /* scale and sum */
        Scales scales[VECTORS];
        ivec products[ROWS][VECTORS][2] = {0};
        for (int v = 0; v < VECTORS; v++) scales[v] = scales_at(panel, v);
        fetch_strip(ahead, stride);
        panel += PANEL, ahead += stride;
        for (long k = 0; k < GROUP / 2 / parts; k++, panel += PANEL, ahead += stride) {
            const bits *pairs = (const bits *)x + g * (GROUP / 2) + k * parts;
            fetch_strip(ahead, stride);
#pragma GCC unroll 4
            for (int part = 0; part < parts; part++) {
                ivec weights[VECTORS];
#pragma GCC unroll 2
                for (int v = 0; v < VECTORS; v++)
                    weights[v] = *(const ivec *)(panel + v * LANES) >> (part * weight_bits) & mask;
#pragma GCC unroll 8
                for (int m = 0; m < rows; m++)
#pragma GCC unroll 2
                    for (int v = 0; v < VECTORS; v++)
                        products[m][v][part % chains] =
                            add_products(products[m][v][part % chains], weights[v], pairs + m * x_stride + part);
            }
        }
#pragma GCC unroll 8
        for (int m = 0; m < rows; m++)
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++) {
                ivec product = products[m][v][0];
                if (chains > 1) product += products[m][v][1];
                sums[m][v] += group_sum(__builtin_convertvector(product, vec), scales[v], kept + m * x_stride);
            }
    }
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) *(vec *)(out + m * out_stride + v * LANES) = sums[m][v];
}
