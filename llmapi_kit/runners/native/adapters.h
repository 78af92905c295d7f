/* What LoRA adapters change of a product's outputs, token by token: tokens of a step may have different ones, or none.

   All that an adapter adds to a product, such as to queries, keys and values, is reduced at once: `ranks` numbers, of
   which each part takes its own and makes outputs of them. Both matrices lie such that a vector holds neighbours of what
   is computed, so that nothing is summed up across a vector. DoRA has the model's own outputs grow besides.

   Like the weights, an adapter comes from beyond the near caches, and what lies AHEAD is fetched: all of it lies in the
   order in which a step reads it. */

#include "panels.h"

/* Mirrored by ctypes structures in adapter_tables.py. */
typedef struct {
    const float *up;   /* (size / LANES, rank, LANES), the adapter's scale included */
    const float *gain; /* (size): by how much of themselves the model's own outputs grow, of DoRA; or NULL */
    int64_t rank, at;  /* of what was reduced, its own from `at` on */
    int64_t first, size; /* of the outputs that it changes */
} Part;

typedef struct {
    const float *down, *offset; /* (inputs, ranks), (ranks); ranks in whole vectors */
    const Part *parts;
    int64_t num_parts, inputs, ranks;
    int64_t scales; /* whether a part has a gain */
} Change; /* of a product */

INLINE vec load_and_fetch(const float *from) {
    __builtin_prefetch((const char *)from + AHEAD, 0, 2);
    return load_float(from);
}

#define BATCH 4 /* tokens of one adapter that read it together; mirrored in adapter_tables.py */

/* Inputs of some rows times some vectors of `down`, `stride` apart, and the offsets. The order of sums depends on
   `vectors` alone, so that a token's are the same whatever is computed beside it. */
INLINE void reduce_as(const int rows, const int vectors, const int chains, const float *down, long stride,
                      const float *offset, const float *const *inputs, long size, float *reduced) {
    vec sums[BATCH][4][4] = {0};
    long i = 0;
    for (; i + chains <= size; i += chains)
#pragma GCC unroll 4
        for (int j = 0; j < chains; j++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) {
                const vec factors = load_and_fetch(down + (i + j) * stride + v * LANES);
#pragma GCC unroll 4
                for (int r = 0; r < rows; r++) sums[r][v][j] += factors * inputs[r][i + j];
            }
    for (; i < size; i++)
        for (int v = 0; v < vectors; v++)
            for (int r = 0; r < rows; r++) sums[r][v][0] += load_float(down + i * stride + v * LANES) * inputs[r][i];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            for (int j = 1; j < chains; j++) sums[r][v][0] += sums[r][v][j];
            *(vec *)(reduced + r * stride + v * LANES) = sums[r][v][0] + load_float(offset + v * LANES);
        }
}

/* Adds what a part makes of the numbers that are its own, `stride` apart. */
INLINE void expand_as(const int rows, const Part *part, const float *reduced, long stride, float *const *outputs) {
    const float *up = part->up;
    const long rank = part->rank;
    for (long i = 0; i < part->size; i += LANES, up += rank * LANES) {
        vec sums[BATCH][2] = {0};
        long k = 0;
        for (; k + 2 <= rank; k += 2)
#pragma GCC unroll 2
            for (int j = 0; j < 2; j++) {
                const vec factors = load_and_fetch(up + (k + j) * LANES);
#pragma GCC unroll 4
                for (int r = 0; r < rows; r++) sums[r][j] += factors * reduced[r * stride + part->at + k + j];
            }
        for (int r = 0; k < rank && r < rows; r++)
            sums[r][0] += load_float(up + k * LANES) * reduced[r * stride + part->at + k];
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            const vec sum = sums[r][0] + sums[r][1];
            float *to = outputs[r] + part->first + i;
            if (i + LANES <= part->size) *(vec *)to += sum;
            else
                for (long j = 0; j < part->size - i; j++) to[j] += sum[j];
        }
    }
}

#define EACH_BATCH(rows, CASE) \
    switch (rows) { CASE(1) CASE(2) CASE(3) CASE(4) }

static void reduce(const Change *change, long rows, const float *const *inputs, float *reduced) {
    const long stride = change->ranks;
    for (long at = 0; at < stride; at += 4 * LANES) {
        const float *down = change->down + at, *offset = change->offset + at;
        const long vectors = (stride - at) / LANES;
#define REDUCE_AS(rows, count, chains) \
    reduce_as(rows, count, chains, down, stride, offset, inputs, change->inputs, reduced + at)
#define REDUCE(rows) \
    case rows: \
        if (vectors == 1) REDUCE_AS(rows, 1, 4); \
        else if (vectors == 2) REDUCE_AS(rows, 2, 2); \
        else if (vectors == 3) REDUCE_AS(rows, 3, 1); \
        else REDUCE_AS(rows, 4, 1); \
        break;
        EACH_BATCH(rows, REDUCE)
    }
}

static void expand(const Part *part, long rows, const float *reduced, long stride, float *const *outputs) {
#define EXPAND(rows) case rows: expand_as(rows, part, reduced, stride, outputs); break;
    EACH_BATCH(rows, EXPAND)
}

/* Changes outputs of a product of up to BATCH tokens as their adapter has it. `inputs` are as `round_inputs` left them.
   Of the outputs, `bias` and what stood there `before` are not the weights' own; or NULL. */
static void adapt(const Change *change, long rows, const float *const *inputs, const float *bias,
                  const float *const *before, float *const *outputs) {
    const float *wide[BATCH];
    float reduced[rows * change->ranks], room[rows][row_size(change->inputs)];
    for (long r = 0; r < rows; r++) wide[r] = wide_inputs(inputs[r], change->inputs, room[r]);
    reduce(change, rows, wide, reduced);
    for (const Part *part = change->parts; part < change->parts + change->num_parts; part++) {
        for (long r = 0; part->gain && r < rows; r++)
            for (long i = part->first; i < part->first + part->size; i++) {
                const float others = (bias ? bias[i] : 0) + (before ? before[r][i] : 0);
                outputs[r][i] += part->gain[i - part->first] * (outputs[r][i] - others);
            }
        expand(part, rows, reduced, change->ranks, outputs);
    }
}
