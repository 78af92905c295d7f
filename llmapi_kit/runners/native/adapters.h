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

/* Inputs times some vectors of `down`, `stride` apart, and the offsets. */
INLINE void reduce_as(const int vectors, const int chains, const float *down, long stride, const float *offset,
                      const float *inputs, long size, float *reduced) {
    vec sums[4][4] = {0};
    long i = 0;
    for (; i + chains <= size; i += chains)
#pragma GCC unroll 4
        for (int j = 0; j < chains; j++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                sums[v][j] += load_and_fetch(down + (i + j) * stride + v * LANES) * inputs[i + j];
    for (; i < size; i++)
        for (int v = 0; v < vectors; v++) sums[v][0] += load_float(down + i * stride + v * LANES) * inputs[i];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
        for (int j = 1; j < chains; j++) sums[v][0] += sums[v][j];
        *(vec *)(reduced + v * LANES) = sums[v][0] + load_float(offset + v * LANES);
    }
}

static void reduce(const Change *change, const float *inputs, float *reduced) {
    const long stride = change->ranks;
    for (long at = 0; at < stride; at += 4 * LANES) {
        const float *down = change->down + at, *offset = change->offset + at;
        switch ((stride - at) / LANES) {
#define REDUCE(count, chains) reduce_as(count, chains, down, stride, offset, inputs, change->inputs, reduced + at); break;
            case 1: REDUCE(1, 4)
            case 2: REDUCE(2, 4)
            case 3: REDUCE(3, 2)
            default: REDUCE(4, 2)
        }
    }
}

/* Adds what a part makes of the numbers that are its own. */
static void expand(const Part *part, const float *reduced, float *outputs) {
    const float *up = part->up;
    const long rank = part->rank;
    for (long i = 0; i < part->size; i += LANES, up += rank * LANES) {
        vec sums[2] = {0};
        long r = 0;
        for (; r + 2 <= rank; r += 2) {
            sums[0] += load_and_fetch(up + r * LANES) * reduced[r];
            sums[1] += load_and_fetch(up + (r + 1) * LANES) * reduced[r + 1];
        }
        if (r < rank) sums[0] += load_float(up + r * LANES) * reduced[r];
        const vec sum = sums[0] + sums[1];
        if (i + LANES <= part->size) *(vec *)(outputs + i) += sum;
        else
            for (long j = i; j < part->size; j++) outputs[j] += sum[j - i];
    }
}

/* Changes a token's outputs of a product as its adapter has it; `change` is NULL where it has none. `inputs` are as
   `round_inputs` left them. Of the outputs, `bias` and what stood there `before` are not the weights' own; or NULL. */
static void adapt(const Change *change, const float *inputs, const float *bias, const float *before, float *outputs) {
    if (!change || !change->num_parts) return;
    float reduced[change->ranks], room[row_size(change->inputs)];
    reduce(change, wide_inputs(inputs, change->inputs, room), reduced);
    for (const Part *part = change->parts; part < change->parts + change->num_parts; part++) {
        for (long i = part->first; part->gain && i < part->first + part->size; i++) {
            const float others = (bias ? bias[i] : 0) + (before ? before[i] : 0);
            outputs[i] += part->gain[i - part->first] * (outputs[i] - others);
        }
        expand(part, reduced + part->at, outputs + part->first);
    }
}
