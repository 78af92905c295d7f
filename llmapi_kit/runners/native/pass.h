/* A step's arguments and working memory, as each thread of it sees them. */

#include "attention.h"

typedef struct {
    long x, h, qkv, gate_up, scores, sums; /* floats a row */
    long both;                             /* of a row of qkv, what the product gives */
    long rows;                             /* that a thread attends with at once */
} Widths;

static long most(long a, long b) { return a > b ? a : b; }

static Widths widths_of(const Model *model) {
    const long queries = model->heads * model->head_dim, both = queries + 2 * model->kv_heads * model->head_dim;
    const long inner = most(model->inner, model->expert_inner);
    Widths w;
    w.x = PADDED(model->hidden, PANEL);
    w.both = PADDED(both, PANEL);
    w.qkv = most(w.both, w.x); /* a branch has its place there, too */
    w.h = row_size(PADDED(most(most(queries, inner), w.x), PANEL));
    w.gate_up = PADDED(2 * inner, PANEL);
    w.scores = PADDED(model->max_length, LANES) + 2 * LANES;
    w.sums = PADDED(model->head_dim, LANES);
    w.rows = most(model->heads, ROWS);
    return w;
}

/* Floats of working memory of a thread. */
static long own_size(const Model *model, const Widths *w) {
    return w->rows * (w->scores + w->sums) + ROWS * model->head_dim;
}

/* The same that tokens need for experts, each: inputs of the one that is computed, and what `route` found. */
static long routed_size(const Model *model, const Widths *w) {
    return model->num_experts ? w->h + 3 * model->experts_per_token + 1 : 0;
}

/* Floats of working memory that a step of so many tokens needs. */
int64_t work_size(const Model *model, int64_t num_tokens, int64_t num_threads) {
    const Widths w = widths_of(model);
    return num_tokens * (w.h + w.qkv + w.gate_up + routed_size(model, &w)) + model->num_experts + 1 +
           num_threads * own_size(model, &w);
}

/* Elements of memory that a slot takes, and from its start to position `length`. */
int64_t slot_size(const Model *model) { return strides_of(model).slot; }
int64_t prefix_size(const Model *model, int64_t length) { return PADDED(length, LANES) / LANES * strides_of(model).block; }

typedef struct {
    const Model *model;
    long num_tokens, num_wanted;
    const int64_t *tokens, *positions, *turns, *slots, *wanted;
    const Change *const *adapters; /* (num_tokens) of (layer, product), or NULL */
    const int64_t *order, *batches; /* tokens, those of an adapter together, and where its batches begin; with adapters */
    long num_batches;              /* of one token each where there are no adapters */
    float *x, *logits, *work;
} Step;

enum { QKV, OUTPUT, GATE_UP, DOWN, PRODUCTS };

/* What a token's adapter changes of a layer's product; NULL for nothing. */
static const Change *change_of(const Step *step, long t, long layer, int product) {
    const Change *changes = step->adapters ? step->adapters[t] : 0;
    return changes ? changes + layer * PRODUCTS + product : 0;
}

/* Up to BATCH tokens with the same adapter, or none. */
typedef struct {
    const int64_t *order;
    long first, num;
} Batch;

static Batch batch_of(const Step *step, long b) {
    if (!step->adapters) return (Batch){0, b, 1};
    return (Batch){step->order, step->batches[b], step->batches[b + 1] - step->batches[b]};
}

static long token_of(const Batch *batch, long i) { return batch->order ? batch->order[batch->first + i] : batch->first + i; }

/* What `route` finds for each token, and how the pairs of a token and an expert then stand, expert after expert. */
typedef struct {
    float *inputs;         /* (num_tokens, w.h) of the expert that is computed */
    float *shares;         /* (num_tokens, experts_per_token): of each chosen expert in the token's sum */
    float *gates;          /* (num_tokens): the share of the feed-forward that all tokens go through */
    int32_t *chosen;       /* (num_tokens, experts_per_token) */
    int32_t *order;        /* (num_tokens * experts_per_token): pairs, as indices of `chosen` */
    int32_t *begins;       /* (num_experts + 1) of each expert's in `order` */
} Routed;

typedef struct {
    const Step *step;
    const Model *model;
    Team *team;
    int index; /* of this thread */
    Strides s;
    Widths w;
    Scratch scratch; /* of this thread */
    Routed routed;
    float *x, *h, *qkv, *gate_up; /* (num_tokens, ...) */
    long few;                     /* tokens that a thread takes at once: adapters are more work */
} Pass;

static Pass pass_of(const Step *step, Team *team, int index) {
    const Model *model = step->model;
    Pass pass = {.step = step, .model = model, .team = team, .index = index, .x = step->x};
    const long n = step->num_tokens, pairs = n * model->experts_per_token;
    pass.s = strides_of(model);
    const Widths w = pass.w = widths_of(model);
    pass.few = step->adapters ? 1 : 4;
    pass.h = step->work;
    pass.qkv = pass.h + n * w.h;
    pass.gate_up = pass.qkv + n * w.qkv;
    float *at = pass.gate_up + n * w.gate_up;
    if (model->num_experts) {
        Routed *r = &pass.routed;
        r->inputs = at;
        r->shares = r->inputs + n * w.h;
        r->gates = r->shares + pairs;
        r->chosen = (int32_t *)(r->gates + n);
        r->order = r->chosen + pairs;
        r->begins = r->order + pairs;
        at = (float *)(r->begins + model->num_experts + 1);
    }
    at += index * own_size(model, &w);
    float *sums = at + w.rows * w.scores;
    pass.scratch = (Scratch){at, sums, sums + w.rows * w.sums, w.scores, w.sums};
    return pass;
}

/* Where the product goes that ends attention or a feed-forward: added to x, or first to a place of its own. */
typedef struct {
    float *to;
    long stride;
    int adds;
    const float *norm; /* of what is there, before it is added; or NULL */
} Branch;

static Branch branch_of(const Pass *pass, const Layer *layer, int product) {
    const float *norm = product == OUTPUT ? layer->after_attention : layer->after_feed_forward;
    const float *bias = product == OUTPUT ? layer->output_bias : layer->down_bias;
    if (!norm && !bias && pass->model->residual_multiplier == 1) return (Branch){pass->x, pass->w.x, 1, 0};
    return (Branch){pass->qkv, pass->w.qkv, 0, norm};
}

/* gelu by tanh is x * sigmoid(2 * sqrt(2 / pi) * (x + 0.044715 * x^3)) */
#define GELU_LINEAR 1.5957691216f
#define GELU_CUBIC (0.044715f * GELU_LINEAR)

/* The gate's activation times up. */
INLINE void activate_as(const int kind, const float *gate, long size, float *out) {
    const float *up = gate + size;
    long i = 0;
    for (; i + LANES <= size; i += LANES) {
        const vec g = *(const vec *)(gate + i);
        vec z = g;
        if (kind == GELU_TANH) z = g * (GELU_LINEAR + GELU_CUBIC * g * g);
        *(vec *)(out + i) = g / (1.0f + exponential(-larger(z, splat(-88.0f)))) * *(const vec *)(up + i);
    }
    for (; i < size; i++) {
        const float g = gate[i], z = kind == GELU_TANH ? g * (GELU_LINEAR + GELU_CUBIC * g * g) : g;
        out[i] = g / (1.0f + expf(-z)) * up[i];
    }
}

static void activate_clamped(const float *gate, long size, float alpha, float limit, float *out) {
    const float *up = gate + size;
    long i = 0;
    for (; i + LANES <= size; i += LANES) {
        const vec g = smaller(*(const vec *)(gate + i), splat(limit)), u = smaller(*(const vec *)(up + i), splat(limit));
        *(vec *)(out + i) = g / (1.0f + exponential(-larger(alpha * g, splat(-88.0f)))) * (larger(u, splat(-limit)) + 1);
    }
    for (; i < size; i++) {
        const float g = fminf(gate[i], limit), u = fmaxf(fminf(up[i], limit), -limit);
        out[i] = g / (1.0f + expf(-alpha * g)) * (u + 1);
    }
}

static void activate(const Model *model, const float *gate, long size, float *out) {
    if (model->activation == CLAMPED_SWIGLU)
        activate_clamped(gate, size, model->swiglu_alpha, model->swiglu_limit, out);
    else if (model->activation == GELU_TANH) activate_as(GELU_TANH, gate, size, out);
    else activate_as(SILU, gate, size, out);
}
