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

static float inner_product(const float *weights, const float *inputs, long size) {
    vec sums[4] = {0};
    long i = 0;
    for (; i + 4 * LANES <= size; i += 4 * LANES)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) sums[j] += load_float(weights + i + j * LANES) * load_inputs(inputs, i + j * LANES);
    for (; i + LANES <= size; i += LANES) sums[0] += load_float(weights + i) * load_inputs(inputs, i);
    sums[0] += sums[1] + sums[2] + sums[3];
    float sum = 0;
    for (int j = 0; j < LANES; j++) sum += sums[0][j];
    for (; i < size; i++) sum += weights[i] * load_input(inputs, i);
    return sum;
}

/* Adds to a token's outputs of a product what its adapter changes; `change` is NULL where it has none. */
static void adapt(const Change *change, const float *inputs, float *outputs) {
    for (long p = 0; change && p < change->num_parts; p++) {
        const LowRank part = change->parts[p];
        float *to = outputs + part.first;
        for (long r = 0; r < part.rank; r++) {
            const float factor = part.offset[r] + inner_product(part.down + r * part.inputs, inputs, part.inputs);
            const float *up = part.up + r * part.size;
            long i = 0;
            for (; i + LANES <= part.size; i += LANES) *(vec *)(to + i) += load_float(up + i) * factor;
            for (; i < part.size; i++) to[i] += up[i] * factor;
        }
    }
}
