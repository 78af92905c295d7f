/* What LoRA adapters add to a product's outputs, token by token: tokens of a step may have different ones, or none. */

#include "panels.h"

/* Mirrored by ctypes structures in adapter_tables.py. */
typedef struct {
    const float *down, *offset, *up; /* (rank, inputs), (rank), (rank, size); the adapter's scale is in `up` */
    int64_t rank, inputs, first, size; /* of the outputs that it changes */
} LowRank;

typedef struct {
    const LowRank *parts;
    int64_t num_parts;
} Change; /* of a product */

/* Inputs of a product, as `round_inputs` leaves them. */
#if DEPTH == 2
INLINE vec load_inputs(const float *row, long i) { return load_bfloat16((const uint16_t *)row + i); }
INLINE float load_input(const float *row, long i) { return widen_bfloat16(((const uint16_t *)row)[i]); }
#else
INLINE vec load_inputs(const float *row, long i) { return load_float(row + i); }
INLINE float load_input(const float *row, long i) { return row[i]; }
#endif

#define RANKS 4 /* that are computed together */

/* Products of some rows of weights, `size` apart, with a row of inputs. */
INLINE void inner_products(const int ranks, const float *weights, const float *inputs, long size, float *products) {
    vec sums[RANKS][2] = {0};
    long i = 0;
    for (; i + 2 * LANES <= size; i += 2 * LANES) {
        const vec first = load_inputs(inputs, i), second = load_inputs(inputs, i + LANES);
#pragma GCC unroll 4
        for (int r = 0; r < ranks; r++) {
            sums[r][0] += load_float(weights + r * size + i) * first;
            sums[r][1] += load_float(weights + r * size + i + LANES) * second;
        }
    }
    for (int r = 0; r < ranks; r++) {
        const vec both = sums[r][0] + sums[r][1];
        float sum = 0;
        for (int j = 0; j < LANES; j++) sum += both[j];
        for (long j = i; j < size; j++) sum += weights[r * size + j] * load_input(inputs, j);
        products[r] += sum;
    }
}

/* Adds some rows of weights, `size` apart, each times its factor, to outputs. */
INLINE void add_rows(const int ranks, const float *weights, const float *factors, long size, float *outputs) {
    long i = 0;
    for (; i + LANES <= size; i += LANES) {
        vec sum = *(const vec *)(outputs + i);
#pragma GCC unroll 4
        for (int r = 0; r < ranks; r++) sum += load_float(weights + r * size + i) * factors[r];
        *(vec *)(outputs + i) = sum;
    }
    for (; i < size; i++)
        for (int r = 0; r < ranks; r++) outputs[i] += weights[r * size + i] * factors[r];
}

/* Adds to a token's outputs of a product what its adapter changes; `change` is NULL where it has none. */
static void adapt(const Change *change, const float *inputs, float *outputs) {
    for (long p = 0; change && p < change->num_parts; p++) {
        const LowRank part = change->parts[p];
        for (long r = 0; r < part.rank; r += RANKS) {
            const float *down = part.down + r * part.inputs, *up = part.up + r * part.size;
            const int ranks = part.rank - r < RANKS ? part.rank - r : RANKS;
            float factors[RANKS];
            memcpy(factors, part.offset + r, ranks * sizeof(float));
            if (ranks == RANKS) {
                inner_products(RANKS, down, inputs, part.inputs, factors);
                add_rows(RANKS, up, factors, part.size, outputs + part.first);
            } else {
                inner_products(ranks, down, inputs, part.inputs, factors);
                add_rows(ranks, up, factors, part.size, outputs + part.first);
            }
        }
    }
}
