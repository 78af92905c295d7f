/* Attention of a step's tokens over keys and values of many slots.

   Those of a slot lie in blocks of LANES positions: (slot, block, layer, 2, kv_head, ...), keys as (head_dim, LANES), so
   that one vector holds the scores of LANES positions, values as (LANES, padded head_dim). They are float, bfloat16 with
   -DMEMORY_BFLOAT16, or with -DMEMORY_INT8 integers of 8 bits, at whose end stand LANES floats: each position's scale.
   Rows that a slot has not reached are never touched. */

#include "arithmetic.h"

#define MAX_ROWS 4
#define MAX_CHAINS 4

typedef struct {
    long values_width, head, layer, block, slot; /* in elements of the memory */
} Strides;

static Strides strides_of(const Model *model) {
    Strides s;
    s.values_width = PADDED(model->head_dim, LANES);
    s.head = LANES * s.values_width + SCALES;
    s.layer = 2 * model->kv_heads * s.head;
    s.block = model->num_layers * s.layer + s.head; /* no power of two, or a head's blocks would share few cache lines */
    s.slot = PADDED(model->max_length, LANES) / LANES * s.block;
    return s;
}

/* What a head's numbers are multiplied by before they are stored at `lane` of the block that ends at `end`; 1 where they
   are stored as they are. */
INLINE float fit(const float *values, long size, stored *end, long lane) {
    if (!SCALES) return 1;
    float peak = 0;
    for (long i = 0; i < size; i++) peak = fabsf(values[i]) > peak ? fabsf(values[i]) : peak;
    const float scale = peak / 127;
    memcpy(end - SCALES + lane * sizeof(float), &scale, sizeof(float));
    return peak > 0 ? 127 / peak : 0;
}

/* Scores of LANES positions, or their weights, times the scales of the block of keys or values that ends at `end`. */
INLINE vec scaled(vec scores, const stored *end) {
    if (SCALES) scores *= *(const vec *)(const void *)(end - SCALES);
    return scores;
}

/* Norm of one token's queries and keys, each head for itself or all of them together. */
static void norm_heads(const Model *model, const Layer *layer, float *qkv) {
    const long size = model->head_dim, queries = model->heads * size, keys = model->kv_heads * size;
    if (model->norms_all_heads) {
        normalise(qkv, layer->query_norm, queries, model->epsilon, qkv);
        normalise(qkv + queries, layer->key_norm, keys, model->epsilon, qkv + queries);
        return;
    }
    for (float *x = qkv; x < qkv + queries + keys; x += size)
        normalise(x, x < qkv + queries ? layer->query_norm : layer->key_norm, size, model->epsilon, x);
}

/* Rotation of one token's queries and keys: of the first `rotated` numbers of each head. */
static void rotate(const Model *model, const Layer *layer, float *qkv, long turn) {
    const long half = model->rotated / 2, num_heads = model->heads + model->kv_heads;
    const float *cosine = layer->cosines + turn * model->rotated, *sine = layer->sines + turn * model->rotated;
    for (long h = 0; h < num_heads; h++) {
        float *x = qkv + h * model->head_dim;
        for (long i = 0; i < half; i++) {
            const float first = x[i], second = x[i + half];
            x[i] = first * cosine[i] + second * sine[i];
            x[i + half] = second * cosine[i + half] + first * sine[i + half];
        }
    }
}

/* Norm and rotation of one token's queries and keys in place; its keys and values go to memory. */
static void place(const Model *model, const Layer *layer, const Strides *s, stored *memory, float *qkv, long position,
                  long turn) {
    const long size = model->head_dim, rotated = model->heads + model->kv_heads;
    if (layer->query_norm) norm_heads(model, layer, qkv);
    if (layer->cosines) rotate(model, layer, qkv, turn);
    for (long h = 0; h < model->kv_heads; h++) {
        const float *key = qkv + (model->heads + h) * size, *value = qkv + (rotated + h) * size;
        const long lane = position % LANES;
        stored *keys = memory + position / LANES * s->block + h * s->head, *values = keys + model->kv_heads * s->head;
        const float key_fit = fit(key, size, keys + s->head, lane), value_fit = fit(value, size, values + s->head, lane);
        for (long i = 0; i < size; i++) keys[i * LANES + lane] = narrow(key[i] * key_fit);
        for (long i = 0; i < size; i++) values[lane * s->values_width + i] = narrow(value[i] * value_fit);
    }
}

/* A head of a token: what is looked for, at which position, where the answer goes, and its sink; NULL for none. */
typedef struct {
    const float *query;
    long position;
    float *out;
    const float *sink;
} Row;

/* Memory of a thread for rows that attend together, `length` and `width` floats a row; of queries, ROWS rows. */
typedef struct {
    float *scores, *sums, *queries;
    long length, width;
} Scratch;

/* The switch over a number of rows, 1 to MAX_ROWS; more chains where there are few, as a sum waits for itself. */
#define EACH_COUNT(rows, CASE) \
    switch (rows) { CASE(1, 4) CASE(2, 4) CASE(3, 2) CASE(4, 2) }

/* Scores of rows over a block of LANES positions. Keys are loaded once for all of them. */
INLINE void score(const int rows, const int chains, const stored *keys, const stored *end, long size, const Row *row,
                  long offset, float scaling, float *scores, long length) {
    vec dots[MAX_ROWS][MAX_CHAINS] = {0};
    long i = 0;
    for (; i + chains <= size; i += chains)
#pragma GCC unroll 4
        for (int j = 0; j < chains; j++) {
            const vec key = load(keys + (i + j) * LANES);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++) dots[r][j] += key * row[r].query[offset + i + j];
        }
    for (; i < size; i++)
        for (int r = 0; r < rows; r++) dots[r][0] += load(keys + i * LANES) * row[r].query[offset + i];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        for (int j = 1; j < chains; j++) dots[r][0] += dots[r][j];
        *(vec *)(scores + r * length) = scaled(dots[r][0] * scaling, end);
    }
}

/* Adds the values at `from` to `to` of a block, weighted, to the rows' sums. */
INLINE void mix(const int rows, const int chains, const stored *values, long width, long from, long to,
                const float *weights, long length, float *sums) {
    for (long column = 0; column < width; column += LANES) {
        vec mixed[MAX_ROWS][MAX_CHAINS] = {0};
        long i = from;
        for (; i + chains <= to; i += chains)
#pragma GCC unroll 4
            for (int j = 0; j < chains; j++) {
                const vec value = load(values + (i + j) * width + column);
#pragma GCC unroll 4
                for (int r = 0; r < rows; r++) mixed[r][j] += value * weights[r * length + i + j];
            }
        for (; i < to; i++)
            for (int r = 0; r < rows; r++)
                mixed[r][0] += load(values + i * width + column) * weights[r * length + i];
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            for (int j = 1; j < chains; j++) mixed[r][0] += mixed[r][j];
            *(vec *)(sums + r * width + column) += mixed[r][0];
        }
    }
}

/* Scores from `begin` to `end` become weights, all 0 but from `first` to `last`; returns what to multiply them by. A
   sink is one score more, whose weight is no position's. */
static float soften(float *scores, long begin, long first, long last, long end, float cap, const float *sink) {
    if (cap) cap_all(scores + begin, end - begin, cap);
    for (long at = begin; at < first; at++) scores[at] = -1e30f;
    for (long at = last + 1; at < end; at++) scores[at] = -1e30f;
    vec highest = splat(-1e30f), sums = {0};
    for (long at = begin; at < end; at += LANES) highest = larger(*(vec *)(scores + at), highest);
    float peak = highest[0];
    for (int i = 1; i < LANES; i++) peak = highest[i] > peak ? highest[i] : peak;
    if (sink) peak = *sink > peak ? *sink : peak;
    for (long at = begin; at < end; at += LANES) {
        const vec weight = exponential(*(vec *)(scores + at) - peak);
        *(vec *)(scores + at) = weight;
        sums += weight;
    }
    /* `exponential` ends at e^-87: what is hidden would pass on that little, and norms of rows near 0 make much of it */
    for (long at = begin; at < first; at++) scores[at] = 0;
    for (long at = last + 1; at < end; at++) scores[at] = 0;
    return 1.0f / (total(sums) + (sink ? expf(*sink - peak) : 0));
}

/* Rows' weights of the positions of a block of values that ends at `end`, times its scales. */
INLINE void weigh(long rows, float *weights, long length, const stored *end) {
    for (long r = 0; SCALES && r < rows; r++)
        *(vec *)(weights + r * length) = scaled(*(vec *)(weights + r * length), end);
}

/* First position that a token sees. */
static long first_seen(const Layer *layer, long position) {
    return layer->window && position >= layer->window ? position - layer->window + 1 : 0;
}

INLINE void fetch(const stored *from, long size) {
    for (long i = 0; i < size; i += 64 / (long)sizeof(stored)) __builtin_prefetch(from + i);
}

/* Rows of one slot over their past, each itself included: the `num_rows` given, of the first of `heads` key heads, and
   those as many queries further on of each other head. Block after block through all heads, so that memory is read in
   one go; with several heads, what comes next is fetched meanwhile, at the end what lies at `next`. */
static void attend(const Model *model, const Layer *layer, const Strides *s, long heads, const stored *keys,
                   const stored *next, long num_rows, const Row *row, Scratch scratch) {
    const stored *values = keys + model->kv_heads * s->head;
    const long size = model->head_dim, group = model->heads / model->kv_heads, step = group * size;
    long last = 0, first = model->max_length;
    for (long r = 0; r < num_rows; r++) {
        const long seen = first_seen(layer, row[r].position);
        first = seen < first ? seen : first;
        last = row[r].position > last ? row[r].position : last;
    }
    const long begin = first / LANES * LANES, end = PADDED(last + 1, LANES);
    for (long at = begin; at < end; at += LANES) {
        const stored *block = keys + at / LANES * s->block;
        const stored *ahead = at + LANES < end ? block + s->block : values + begin / LANES * s->block;
        for (long h = 0; h < heads; h++) {
            if (heads > 1) fetch(ahead + h * s->head, LANES * size);
            for (long r = 0; r < num_rows; r += MAX_ROWS) {
                float *scores = scratch.scores + (h * num_rows + r) * scratch.length + at;
                const stored *head = block + h * s->head, *head_end = head + s->head;
#define SCORE(rows, chains) \
    case rows: \
        score(rows, chains, head, head_end, size, row + r, h * step, layer->scaling, scores, scratch.length); \
        break;
                EACH_COUNT(num_rows - r < MAX_ROWS ? num_rows - r : MAX_ROWS, SCORE)
            }
        }
    }
    float scales[heads * num_rows];
    for (long i = 0; i < heads * num_rows; i++) {
        const Row *own = row + i % num_rows;
        const float *sink = own->sink ? own->sink + i / num_rows * group : 0;
        scales[i] = soften(scratch.scores + i * scratch.length, begin, first_seen(layer, own->position), own->position,
                           end, model->attention_cap, sink);
    }
    memset(scratch.sums, 0, heads * num_rows * scratch.width * sizeof(float));
    for (long at = begin; at < end; at += LANES) {
        const stored *block = values + at / LANES * s->block;
        const stored *ahead = at + LANES < end ? block + s->block : next;
        const long from = first > at ? first - at : 0, to = last + 1 - at < LANES ? last + 1 - at : LANES;
        for (long h = 0; h < heads; h++) {
            if (heads > 1) fetch(ahead + h * s->head, LANES * size);
            weigh(num_rows, scratch.scores + h * num_rows * scratch.length + at, scratch.length,
                  block + (h + 1) * s->head);
            for (long r = 0; r < num_rows; r += MAX_ROWS) {
                const float *weights = scratch.scores + (h * num_rows + r) * scratch.length + at;
                float *sums = scratch.sums + (h * num_rows + r) * scratch.width;
#define MIX(rows, chains) \
    case rows: mix(rows, chains, block + h * s->head, scratch.width, from, to, weights, scratch.length, sums); break;
                EACH_COUNT(num_rows - r < MAX_ROWS ? num_rows - r : MAX_ROWS, MIX)
            }
        }
    }
    for (long i = 0; i < heads * num_rows; i++) {
        float *out = row[i % num_rows].out + i / num_rows * step;
        for (long j = 0; j < size; j++) out[j] = scratch.sums[i * scratch.width + j] * scales[i];
    }
}

/* Scores of ROWS rows over blocks of keys, `stride` apart, of `head` elements each. */
INLINE void score_run(const int blocks, const float *queries, const stored *keys, long stride, long head, long size,
                      float *scores, long length) {
    vec dots[ROWS][VECTORS] = {0};
    for (long i = 0; i < size; i++) {
        vec key[VECTORS];
#pragma GCC unroll 2
        for (int b = 0; b < blocks; b++) key[b] = load(keys + b * stride + i * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
            for (int b = 0; b < blocks; b++) dots[r][b] += key[b] * queries[r * size + i];
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
        for (int b = 0; b < blocks; b++) *(vec *)(scores + r * length + b * LANES) = scaled(dots[r][b], keys + b * stride + head);
}

/* Sums of the values from `first` to `last`, weighted, of ROWS rows in some columns. */
INLINE void mix_run(const int columns, const stored *values, long stride, long first, long last, const Scratch *scratch,
                    float *sums) {
    const long width = scratch->width, length = scratch->length;
    vec mixed[ROWS][VECTORS] = {0};
    for (long at = first / LANES * LANES; at <= last; at += LANES, values += stride) {
        const long from = first > at ? first - at : 0, to = last + 1 - at < LANES ? last + 1 - at : LANES;
        const float *weights = scratch->scores + at;
        for (long i = from; i < to; i++) {
            vec value[VECTORS];
#pragma GCC unroll 2
            for (int c = 0; c < columns; c++) value[c] = load(values + i * width + c * LANES);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
                for (int c = 0; c < columns; c++) mixed[r][c] += value[c] * weights[r * length + i];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
        for (int c = 0; c < columns; c++) *(vec *)(sums + r * width + c * LANES) = mixed[r][c];
}

/* As `attend` with one head, for up to ROWS rows: all sums stay in registers. Missing rows are the last one again.
   Keys and values that are not in the near caches yet are fetched beside the arithmetic. */
static void attend_run(const Model *model, const Layer *layer, const Strides *s, const stored *keys, int is_near,
                       long num_rows, const Row *row, Scratch scratch) {
    const stored *values = keys + model->kv_heads * s->head;
    const long size = model->head_dim, last = row[num_rows - 1].position, first = first_seen(layer, row[0].position);
    const long begin = first / LANES * LANES, end = PADDED(last + 1, LANES);
    for (long r = 0; r < ROWS; r++)
        for (long i = 0; i < size; i++)
            scratch.queries[r * size + i] = row[r < num_rows ? r : num_rows - 1].query[i] * layer->scaling;
    long at = begin;
    for (; at + LANES < end; at += 2 * LANES) {
        for (long i = at / LANES; !is_near && i < at / LANES + 2; i++) {
            fetch(values + i * s->block, s->head);
            if ((i + 2) * LANES < end) fetch(keys + (i + 2) * s->block, s->head);
        }
        score_run(2, scratch.queries, keys + at / LANES * s->block, s->block, s->head, size, scratch.scores + at,
                  scratch.length);
    }
    if (at < end)
        score_run(1, scratch.queries, keys + at / LANES * s->block, 0, s->head, size, scratch.scores + at,
                  scratch.length);
    float scales[ROWS];
    for (long r = 0; r < num_rows; r++)
        scales[r] = soften(scratch.scores + r * scratch.length, begin, first_seen(layer, row[r].position),
                           row[r].position, end, model->attention_cap, row[r].sink);
    const stored *from = values + begin / LANES * s->block;
    for (at = begin; at < end; at += LANES)
        weigh(num_rows, scratch.scores + at, scratch.length, values + at / LANES * s->block + s->head);
    long column = 0;
    for (; column + LANES < scratch.width; column += 2 * LANES)
        mix_run(2, from + column, s->block, first, last, &scratch, scratch.sums + column);
    if (column < scratch.width) mix_run(1, from + column, s->block, first, last, &scratch, scratch.sums + column);
    for (long r = 0; r < num_rows; r++)
        for (long i = 0; i < size; i++) row[r].out[i] = scratch.sums[r * scratch.width + i] * scales[r];
}

/* How many tokens from t on attend together: neighbours of a slot, up to a position that is a multiple of ROWS.
   0 where t is not the first of them. */
static long run_length(const int64_t *slots, const int64_t *positions, long num_tokens, long t) {
    if (t && slots[t] == slots[t - 1] && positions[t] % ROWS) return 0;
    long length = 1;
    while (t + length < num_tokens && slots[t + length] == slots[t] && positions[t + length] % ROWS) length++;
    return length;
}
