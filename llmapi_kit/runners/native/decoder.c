/* A step of a Llama-like decoder as one call: token ids in, logits out, over keys and values of many slots.

   Plain C with the vector extensions that gcc and clang share; compiled for the machine it runs on. All arithmetic is
   in float, but for products with weights, of which panels.h tells.

   Keys and values of a slot lie in blocks of LANES positions: (slot, block, layer, 2, kv_head, ...), keys as (head_dim,
   LANES), so that one vector holds the scores of LANES positions, values as (LANES, padded head_dim). They are float,
   bfloat16 with -DMEMORY_BFLOAT16, or with -DMEMORY_INT8 integers of 8 bits, at whose end stand LANES floats: each
   position's scale. Rows that a slot has not reached are never touched. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "adapters.h"

#define MAX_ROWS 4 /* of attention */
#define MAX_CHAINS 4

#if defined(MEMORY_INT8)
typedef int8_t stored;
typedef int8_t stored_vec __attribute__((vector_size(LANES), aligned(1), may_alias));
#define SCALES (LANES * (long)sizeof(float)) /* elements that scales take */
INLINE vec load(const stored *from) { return __builtin_convertvector(*(const stored_vec *)from, vec); }
INLINE stored narrow(float value) { return (stored)lrintf(value); }
#elif defined(MEMORY_BFLOAT16)
typedef uint16_t stored;
#define SCALES 0
INLINE vec load(const stored *from) { return load_bfloat16(from); }
INLINE stored narrow(float value) { return narrow_to_bfloat16(value); }
#else
typedef float stored;
#define SCALES 0
INLINE vec load(const stored *from) { return load_float(from); }
INLINE stored narrow(float value) { return value; }
#endif

/* Mirrored by ctypes structures in decoder.py; pointers that may be NULL are marked. */
typedef struct {
    const weight_t *qkv, *output, *gate_up, *down;                            /* packed */
    const float *input_norm, *post_norm, *qkv_bias, *query_norm, *key_norm; /* last three: or NULL */
    int64_t window;                                                        /* 0: sees everything */
    float scaling;
} Layer;

typedef struct {
    int64_t num_layers, hidden, inner, heads, kv_heads, head_dim, vocab, max_length;
    float epsilon;
    const float *cosines, *sines; /* (max_length, head_dim); sines of the first half are negative */
    const weight_t *embedding;      /* packed; the head where they are one */
    const weight_t *head;           /* packed */
    const float *norm;
    const Layer *layers;
    stored *memory;
} Model;


/* --- arithmetic ------------------------------------------------------------------------------------------------- */

INLINE vec splat(float value) { return value - (vec){0}; }

INLINE float total(vec values) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += values[i];
    return sum;
}

/* e^x for x up to 88, to about 1e-7: x / ln 2 = n + r, a polynomial of 2^r, n added to the exponent. */
INLINE vec exponential(vec x) {
    const vec magic = splat(12582912.0f); /* leaves n in the lowest bits of a sum; its own are shifted out */
    x = larger(x, splat(-87.0f));
    const vec shifted = x * 1.44269504f + magic, r = x * 1.44269504f - (shifted - magic);
    vec p = r * 1.5345812426e-4f + 1.3399930904e-3f;
    p = p * r + 9.6184890717e-3f;
    p = p * r + 5.5503286421e-2f;
    p = p * r + 2.4022646248e-1f;
    p = p * r + 6.9314718246e-1f;
    p = p * r + 1.0f;
    return (vec)((ivec)p + ((ivec)shifted << 23));
}

static void normalise(const float *x, const float *weight, long size, float epsilon, float *out) {
    vec squares = {0};
    long i = 0;
    for (; i + LANES <= size; i += LANES) squares += *(const vec *)(x + i) * *(const vec *)(x + i);
    float sum = total(squares);
    for (; i < size; i++) sum += x[i] * x[i];
    const float scale = 1.0f / sqrtf(sum / size + epsilon);
    for (i = 0; i < size; i++) out[i] = x[i] * scale * weight[i];
}

/* --- attention --------------------------------------------------------------------------------------------------- */

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

/* Norm and rotation of one token's queries and keys in place; its keys and values go to memory. */
static void place(const Model *model, const Layer *layer, const Strides *s, stored *memory, float *qkv, long position) {
    const long size = model->head_dim, half = size / 2, rotated = model->heads + model->kv_heads;
    const float *cosine = model->cosines + position * size, *sine = model->sines + position * size;
    for (long h = 0; h < rotated; h++) {
        float *x = qkv + h * size;
        const float *weight = h < model->heads ? layer->query_norm : layer->key_norm;
        if (weight) normalise(x, weight, size, model->epsilon, x);
        for (long i = 0; i < half; i++) {
            const float first = x[i], second = x[i + half];
            x[i] = first * cosine[i] + second * sine[i];
            x[i + half] = second * cosine[i + half] + first * sine[i + half];
        }
    }
    for (long h = 0; h < model->kv_heads; h++) {
        const float *key = qkv + (model->heads + h) * size, *value = qkv + (rotated + h) * size;
        const long lane = position % LANES;
        stored *keys = memory + position / LANES * s->block + h * s->head, *values = keys + model->kv_heads * s->head;
        const float key_fit = fit(key, size, keys + s->head, lane), value_fit = fit(value, size, values + s->head, lane);
        for (long i = 0; i < size; i++) keys[i * LANES + lane] = narrow(key[i] * key_fit);
        for (long i = 0; i < size; i++) values[lane * s->values_width + i] = narrow(value[i] * value_fit);
    }
}

/* A head of a token: what is looked for, at which position, and where the answer goes. */
typedef struct {
    const float *query;
    long position;
    float *out;
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

/* Scores from `begin` to `end` become weights, all 0 but from `first` to `last`; returns what to multiply them by. */
static float soften(float *scores, long begin, long first, long last, long end) {
    for (long at = begin; at < first; at++) scores[at] = -1e30f;
    for (long at = last + 1; at < end; at++) scores[at] = -1e30f;
    vec highest = splat(-1e30f), sums = {0};
    for (long at = begin; at < end; at += LANES) highest = larger(*(vec *)(scores + at), highest);
    float peak = highest[0];
    for (int i = 1; i < LANES; i++) peak = highest[i] > peak ? highest[i] : peak;
    for (long at = begin; at < end; at += LANES) {
        const vec weight = exponential(*(vec *)(scores + at) - peak);
        *(vec *)(scores + at) = weight;
        sums += weight;
    }
    /* `exponential` ends at e^-87: what is hidden would pass on that little, and norms of rows near 0 make much of it */
    for (long at = begin; at < first; at++) scores[at] = 0;
    for (long at = last + 1; at < end; at++) scores[at] = 0;
    return 1.0f / total(sums);
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
    const long size = model->head_dim, step = model->heads / model->kv_heads * size;
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
        const long position = row[i % num_rows].position;
        scales[i] = soften(scratch.scores + i * scratch.length, begin, first_seen(layer, position), position, end);
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
                           row[r].position, end);
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

/* --- the step ---------------------------------------------------------------------------------------------------- */

static void embed(const Model *model, long token, float *x, long width) {
    unpack_row(HEAD_BITS, model->embedding, model->hidden, token, x);
    memset(x + model->hidden, 0, (width - model->hidden) * sizeof(float));
}

/* SiLU of the gate times up. */
static void activate(const float *gate, long size, float *out) {
    const float *up = gate + size;
    long i = 0;
    for (; i + LANES <= size; i += LANES) {
        const vec g = *(const vec *)(gate + i);
        *(vec *)(out + i) = g / (1.0f + exponential(-larger(g, splat(-88.0f)))) * *(const vec *)(up + i);
    }
    for (; i < size; i++) out[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

typedef struct {
    long x, h, qkv, gate_up, scores, sums; /* floats a row */
    long rows;                             /* that a thread attends with at once */
} Widths;

static Widths widths_of(const Model *model) {
    const long queries = model->heads * model->head_dim, both = queries + 2 * model->kv_heads * model->head_dim;
    Widths w;
    w.x = PADDED(model->hidden, PANEL);
    w.h = PADDED(queries > w.x ? queries : w.x, PANEL);
    if (model->inner > w.h) w.h = PADDED(model->inner, PANEL);
    w.qkv = PADDED(both, PANEL);
    w.gate_up = PADDED(2 * model->inner, PANEL);
    w.scores = PADDED(model->max_length, LANES) + 2 * LANES;
    w.sums = PADDED(model->head_dim, LANES);
    w.h = row_size(w.h);
    w.rows = model->heads > ROWS ? model->heads : ROWS;
    return w;
}

/* Floats of working memory of a thread. */
static long own_size(const Model *model, const Widths *w) {
    return w->rows * (w->scores + w->sums) + ROWS * model->head_dim;
}

/* Floats of working memory that a step of so many tokens needs. */
int64_t work_size(const Model *model, int64_t num_tokens, int64_t num_threads) {
    const Widths w = widths_of(model);
    return num_tokens * (w.h + w.qkv + w.gate_up) + num_threads * own_size(model, &w);
}

/* Elements of memory that a slot takes, and from its start to position `length`. */
int64_t slot_size(const Model *model) { return strides_of(model).slot; }
int64_t prefix_size(const Model *model, int64_t length) { return PADDED(length, LANES) / LANES * strides_of(model).block; }

typedef struct {
    const Model *model;
    long num_tokens, num_wanted;
    const int64_t *tokens, *positions, *slots, *wanted;
    const Change *const *adapters; /* (num_tokens) of (layer, product), or NULL */
    float *x, *logits, *work;
} Step;

enum { QKV, OUTPUT, GATE_UP, DOWN, PRODUCTS };

/* What a token's adapter changes of a layer's product; NULL for nothing. */
static const Change *change_of(const Step *step, long t, long layer, int product) {
    const Change *changes = step->adapters ? step->adapters[t] : 0;
    return changes ? changes + layer * PRODUCTS + product : 0;
}

static void run(Team *team, int index, void *arguments) {
    const Step step = *(Step *)arguments;
    const Model *model = step.model;
    const Strides s = strides_of(model);
    const Widths w = widths_of(model);
    const long n = step.num_tokens, size = model->head_dim, queries = model->heads * size;
    const long group = model->heads / model->kv_heads, logits_width = PADDED(model->vocab, PANEL);
    float *x = step.x, *h = step.work, *qkv = h + n * w.h, *gate_up = qkv + n * w.qkv;
    float *own = gate_up + n * w.gate_up + index * own_size(model, &w), *sums = own + w.rows * w.scores;
    const long few = step.adapters ? 1 : 4; /* tokens that a thread takes at once: adapters are more work */
    const Scratch scratch = {own, sums, sums + w.rows * w.sums, w.scores, w.sums};
    SHARED(team, t, n, 4) if (step.tokens[t] >= 0) embed(model, step.tokens[t], x + t * w.x, w.x);
    barrier(team);
    for (long l = 0; l < model->num_layers; l++) {
        const Layer *layer = model->layers + l;
        stored *memory = model->memory + l * s.layer;
        SHARED(team, t, n, few) {
            if (l) adapt(change_of(&step, t, l - 1, DOWN), h + t * w.h, x + t * w.x);
            normalise(x + t * w.x, layer->input_norm, model->hidden, model->epsilon, h + t * w.h);
            round_inputs(h + t * w.h, model->hidden);
        }
        barrier(team);
        multiply(team, n, h, w.h, layer->qkv, model->hidden, w.qkv, layer->qkv_bias, 0, qkv, w.qkv);
        SHARED(team, t, n, few) {
            adapt(change_of(&step, t, l, QKV), h + t * w.h, qkv + t * w.qkv);
            place(model, layer, &s, memory + step.slots[t] * s.slot, qkv + t * w.qkv, step.positions[t]);
        }
        barrier(team);
        /* Tokens alone in their slot: all heads at once, if that leaves enough to share. Neighbours: head after head,
           whose past stays in the cache for all of them. */
        const long at_once = team->num_active == 1 || n >= 4 * team->num_active ? model->kv_heads : 1;
        const stored *near = 0; /* keys that this thread was at before */
        long begin = 0, end = 0; /* of a slot's tokens */
        SHARED(team, i, n * model->kv_heads, at_once) {
            while (i >= end * model->kv_heads)
                for (begin = end++; end < n && step.slots[end] == step.slots[begin];) end++;
            const long inside = i - begin * model->kv_heads, kv_head = inside / (end - begin);
            const long t = begin + inside % (end - begin), span = end - begin == 1 ? at_once : 1;
            if (kv_head % span) continue;
            const long num_rows = group * run_length(step.slots, step.positions, n, t);
            const stored *keys = memory + step.slots[t] * s.slot + kv_head * s.head;
            const stored *next = keys;
            if (end < n)
                next = memory + step.slots[end] * s.slot + first_seen(layer, step.positions[end]) / LANES * s.block;
            Row rows[num_rows + 1];
            for (long r = 0; r < num_rows; r++) {
                const long at = t + r / group, head = kv_head * group + r % group;
                rows[r] = (Row){qkv + at * w.qkv + head * size, step.positions[at], h + at * w.h + head * size};
            }
            if (end - begin == 1) {
                attend(model, layer, &s, span, keys, next, num_rows, rows, scratch);
                continue;
            }
            for (long r = 0; r < num_rows; r += ROWS, near = keys)
                attend_run(model, layer, &s, keys, keys == near, num_rows - r < ROWS ? num_rows - r : ROWS, rows + r,
                           scratch);
        }
        barrier(team);
        if (ROUNDS) {
            SHARED(team, t, n, 4) round_inputs(h + t * w.h, queries);
            barrier(team);
        }
        multiply(team, n, h, w.h, layer->output, queries, w.x, 0, 1, x, w.x);
        SHARED(team, t, n, few) {
            adapt(change_of(&step, t, l, OUTPUT), h + t * w.h, x + t * w.x);
            normalise(x + t * w.x, layer->post_norm, model->hidden, model->epsilon, h + t * w.h);
            round_inputs(h + t * w.h, model->hidden);
        }
        barrier(team);
        multiply(team, n, h, w.h, layer->gate_up, model->hidden, w.gate_up, 0, 0, gate_up, w.gate_up);
        SHARED(team, t, n, few) {
            adapt(change_of(&step, t, l, GATE_UP), h + t * w.h, gate_up + t * w.gate_up);
            activate(gate_up + t * w.gate_up, model->inner, h + t * w.h);
            round_inputs(h + t * w.h, model->inner);
        }
        barrier(team);
        multiply(team, n, h, w.h, layer->down, model->inner, w.x, 0, 1, x, w.x);
    }
    SHARED(team, t, n, few) {
        adapt(change_of(&step, t, model->num_layers - 1, DOWN), h + t * w.h, x + t * w.x);
        normalise(x + t * w.x, model->norm, model->hidden, model->epsilon, x + t * w.x);
    }
    barrier(team);
    SHARED(team, i, step.num_wanted, 4) {
        memcpy(h + i * w.h, x + step.wanted[i] * w.x, model->hidden * sizeof(float));
        round_inputs(h + i * w.h, model->hidden);
    }
    barrier(team);
    multiply_head(team, step.num_wanted, h, w.h, model->head, model->hidden, logits_width, step.logits, logits_width);
}

/* Computes `num_tokens` tokens, each at its position of its slot; those of one slot lie one after the other. A token
   of -1 has its vector in x already, padded with zeros.
   x (num_tokens, padded hidden) gets the normed last hidden states, logits (num_wanted, padded vocab) what follows
   those of the tokens `wanted`. `adapters` has each token's, if any has one. One thread, or all of the team. */
void step(const Model *model, Team *team, int64_t num_threads, int64_t num_tokens, const int64_t *tokens,
          const int64_t *positions, const int64_t *slots, const Change *const *adapters, int64_t num_wanted,
          const int64_t *wanted, float *x, float *logits, float *work) {
    Step step = {model, num_tokens, num_wanted, tokens, positions, slots, wanted, adapters, x, logits, work};
    team_run(team, num_threads, run, &step);
}
