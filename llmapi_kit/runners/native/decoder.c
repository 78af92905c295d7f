/* A step of a decoder as one call: token ids in, logits out, over keys and values of many slots.

   Plain C with the vector extensions that gcc and clang share; compiled for the machine it runs on. All arithmetic is
   in float, but for products with weights, of which panels.h tells. One step for all families: model.h says in what
   they differ. */

#include "experts.h"

static void embed(const Model *model, long token, float *x, long width) {
    unpack_row((int)model->embedding.bits, model->embedding.weights, model->hidden, token, x);
    memset(x + model->hidden, 0, (width - model->hidden) * sizeof(float));
    if (model->embedding_scale != 1)
        for (long i = 0; i < model->hidden; i++) x[i] *= model->embedding_scale;
}

/* Changes what a layer's product gives some tokens as their adapter has it. */
static void adapt_batch(const Pass *pass, long l, int product, const Batch *batch) {
    const Change *change = change_of(pass->step, token_of(batch, 0), l, product);
    if (!change || !change->num_parts) return;
    const Layer *layer = pass->model->layers + l;
    const float *bias = product == QKV ? layer->qkv_bias : layer->gate_up_bias, *inputs[BATCH], *before[BATCH];
    float *to = product == QKV ? pass->qkv : pass->gate_up, *outputs[BATCH];
    long stride = product == QKV ? pass->w.qkv : pass->w.gate_up;
    int adds = 0;
    if (product == OUTPUT || product == DOWN) {
        const Branch branch = branch_of(pass, layer, product);
        bias = product == OUTPUT ? layer->output_bias : layer->down_bias;
        to = branch.to, stride = branch.stride, adds = branch.adds;
    }
    for (long i = 0; i < batch->num; i++) {
        const long t = token_of(batch, i);
        inputs[i] = pass->h + t * pass->w.h;
        before[i] = pass->qkv + t * pass->w.qkv;
        outputs[i] = to + t * stride;
    }
    adapt(change, batch->num, inputs, bias, adds ? before : 0, outputs);
}

/* What a layer's product gives a token becomes part of x. Where it does not go there by itself, `branch` has it. */
static void join(const Pass *pass, long l, int product, long t) {
    const Model *model = pass->model;
    const Branch branch = branch_of(pass, model->layers + l, product);
    float *x = pass->x + t * pass->w.x, *added = branch.to + t * branch.stride;
    if (branch.adds) return;
    if (branch.norm) normalise(added, branch.norm, model->hidden, model->epsilon, added);
    for (long i = 0; i < model->hidden; i++) x[i] += model->residual_multiplier * added[i];
}

/* Keeps x for `join`, where a product is added to it that an adapter scales. */
static void keep(const Pass *pass, long l, int product, long t) {
    const Change *change = change_of(pass->step, t, l, product);
    if (change && change->scales && branch_of(pass, pass->model->layers + l, product).adds)
        memcpy(pass->qkv + t * pass->w.qkv, pass->x + t * pass->w.x, pass->model->hidden * sizeof(float));
}

/* Inputs of a layer's attention or feed-forward, before they are rounded. */
static void enter(const Pass *pass, const float *norm, long t) {
    const Model *model = pass->model;
    const float *x = pass->x + t * pass->w.x;
    float *h = pass->h + t * pass->w.h;
    if (norm) normalise(x, norm, model->hidden, model->epsilon, h);
    else memcpy(h, x, model->hidden * sizeof(float));
}

/* Heads of all tokens over their past. Tokens alone in their slot: all heads at once, if that leaves enough to share.
   Neighbours: head after head, whose past stays in the cache for all of them. */
static void attend_all(const Pass *pass, const Layer *layer, stored *memory) {
    const Step *step = pass->step;
    const Model *model = pass->model;
    const Strides *s = &pass->s;
    const long n = step->num_tokens, size = model->head_dim, group = model->heads / model->kv_heads;
    const long at_once = pass->team->num_active == 1 || n >= 4 * pass->team->num_active ? model->kv_heads : 1;
    const stored *near = 0; /* keys that this thread was at before */
    long begin = 0, end = 0; /* of a slot's tokens */
    SHARED(pass->team, i, n * model->kv_heads, at_once) {
        while (i >= end * model->kv_heads)
            for (begin = end++; end < n && step->slots[end] == step->slots[begin];) end++;
        const long inside = i - begin * model->kv_heads, kv_head = inside / (end - begin);
        const long t = begin + inside % (end - begin), span = end - begin == 1 ? at_once : 1;
        if (kv_head % span) continue;
        const long num_rows = group * run_length(step->slots, step->positions, n, t);
        const stored *keys = memory + step->slots[t] * s->slot + kv_head * s->head;
        const stored *next = keys;
        if (end < n)
            next = memory + step->slots[end] * s->slot + first_seen(layer, step->positions[end]) / LANES * s->block;
        Row rows[num_rows + 1];
        for (long r = 0; r < num_rows; r++) {
            const long at = t + r / group, head = kv_head * group + r % group;
            rows[r] = (Row){pass->qkv + at * pass->w.qkv + head * size, step->positions[at],
                            pass->h + at * pass->w.h + head * size, layer->sinks ? layer->sinks + head : 0};
        }
        if (end - begin == 1) {
            attend(model, layer, s, span, keys, next, num_rows, rows, pass->scratch);
            continue;
        }
        for (long r = 0; r < num_rows; r += ROWS, near = keys)
            attend_run(model, layer, s, keys, keys == near, num_rows - r < ROWS ? num_rows - r : ROWS, rows + r,
                       pass->scratch);
    }
    barrier(pass->team);
}

/* Attention of a layer, up to its last product. */
static void compute_attention(const Pass *pass, long l) {
    const Step *step = pass->step;
    const Model *model = pass->model;
    const Layer *layer = model->layers + l;
    const Widths w = pass->w;
    const long n = step->num_tokens, queries = model->heads * model->head_dim;
    stored *memory = model->memory + l * pass->s.layer;
    multiply(pass->team, n, pass->h, w.h, &layer->qkv, model->hidden, w.both, layer->qkv_bias, 0, pass->qkv, w.qkv);
    SHARED(pass->team, b, step->num_batches, pass->few) {
        const Batch batch = batch_of(step, b);
        adapt_batch(pass, l, QKV, &batch);
        for (long i = 0; i < batch.num; i++) {
            const long t = token_of(&batch, i);
            stored *slot = memory + step->slots[t] * pass->s.slot;
            place(model, layer, &pass->s, slot, pass->qkv + t * w.qkv, step->positions[t], step->turns[t]);
        }
    }
    barrier(pass->team);
    attend_all(pass, layer, memory);
    if (ROUNDS || step->adapters) {
        SHARED(pass->team, t, n, 4) {
            keep(pass, l, OUTPUT, t);
            round_inputs(pass->h + t * w.h, queries);
        }
        barrier(pass->team);
    }
    const Branch branch = branch_of(pass, layer, OUTPUT);
    multiply(pass->team, n, pass->h, w.h, &layer->output, queries, w.x, layer->output_bias, branch.adds, branch.to,
             branch.stride);
}

/* Feed-forward that all tokens go through, up to its last product. */
static void compute_feed_forward(const Pass *pass, long l) {
    const Step *step = pass->step;
    const Model *model = pass->model;
    const Layer *layer = model->layers + l;
    const Widths w = pass->w;
    const long n = step->num_tokens;
    multiply(pass->team, n, pass->h, w.h, &layer->gate_up, model->hidden, PADDED(2 * layer->inner, PANEL),
             layer->gate_up_bias, 0, pass->gate_up, w.gate_up);
    SHARED(pass->team, b, step->num_batches, pass->few) {
        const Batch batch = batch_of(step, b);
        adapt_batch(pass, l, GATE_UP, &batch);
        for (long i = 0; i < batch.num; i++) {
            const long t = token_of(&batch, i);
            keep(pass, l, DOWN, t);
            activate(model, pass->gate_up + t * w.gate_up, layer->inner, pass->h + t * w.h);
            round_inputs(pass->h + t * w.h, layer->inner);
        }
    }
    barrier(pass->team);
    const Branch branch = branch_of(pass, layer, DOWN);
    multiply(pass->team, n, pass->h, w.h, &layer->down, layer->inner, w.x, layer->down_bias, branch.adds, branch.to,
             branch.stride);
}

static void compute_logits(const Pass *pass) {
    const Step *step = pass->step;
    const Model *model = pass->model;
    const Widths w = pass->w;
    const long width = PADDED(model->vocab, PANEL);
    SHARED(pass->team, i, step->num_wanted, 4) {
        memcpy(pass->h + i * w.h, pass->x + step->wanted[i] * w.x, model->hidden * sizeof(float));
        round_inputs(pass->h + i * w.h, model->hidden);
    }
    barrier(pass->team);
    if (!step->num_wanted) return;
    multiply(pass->team, step->num_wanted, pass->h, w.h, &model->head, model->hidden, width, 0, 0, step->logits, width);
    if (model->logit_scale == 1 && !model->logit_cap) return;
    SHARED(pass->team, i, step->num_wanted, 1) {
        float *logits = step->logits + i * width;
        for (long j = 0; j < width; j++) logits[j] *= model->logit_scale;
        if (model->logit_cap) cap_all(logits, width, model->logit_cap);
    }
    barrier(pass->team);
}

static void run(Team *team, int index, void *arguments) {
    const Step step = *(const Step *)arguments; /* after the last barrier the caller's may be gone */
    const Model *model = step.model;
    const long n = step.num_tokens, num_layers = model->num_layers;
    const Pass pass = pass_of(&step, team, index);
    SHARED(team, t, n, 4) if (step.tokens[t] >= 0) embed(model, step.tokens[t], pass.x + t * pass.w.x, pass.w.x);
    barrier(team);
    for (long l = 0; l < num_layers; l++) {
        const Layer *layer = model->layers + l;
        const int is_fed = l && !layer[-1].router;
        SHARED(team, b, step.num_batches, pass.few) {
            const Batch batch = batch_of(&step, b);
            if (is_fed) adapt_batch(&pass, l - 1, DOWN, &batch);
            for (long i = 0; i < batch.num; i++) {
                const long t = token_of(&batch, i);
                if (is_fed) join(&pass, l - 1, DOWN, t);
                enter(&pass, layer->before_attention, t);
                round_inputs(pass.h + t * pass.w.h, model->hidden);
            }
        }
        barrier(team);
        compute_attention(&pass, l);
        SHARED(team, b, step.num_batches, pass.few) {
            const Batch batch = batch_of(&step, b);
            adapt_batch(&pass, l, OUTPUT, &batch);
            for (long i = 0; i < batch.num; i++) {
                const long t = token_of(&batch, i);
                join(&pass, l, OUTPUT, t);
                enter(&pass, layer->before_feed_forward, t);
                if (layer->router) route(&pass, layer, t);
                round_inputs(pass.h + t * pass.w.h, model->hidden);
            }
        }
        barrier(team);
        if (layer->router) compute_experts(&pass, l);
        else compute_feed_forward(&pass, l);
    }
    SHARED(team, b, step.num_batches, pass.few) {
        const Batch batch = batch_of(&step, b);
        const int is_fed = !model->layers[num_layers - 1].router;
        if (is_fed) adapt_batch(&pass, num_layers - 1, DOWN, &batch);
        for (long i = 0; i < batch.num; i++) {
            const long t = token_of(&batch, i);
            float *x = pass.x + t * pass.w.x;
            if (is_fed) join(&pass, num_layers - 1, DOWN, t);
            normalise(x, model->norm, model->hidden, model->epsilon, x);
        }
    }
    barrier(team);
    compute_logits(&pass);
}

/* Computes `num_tokens` tokens, each at its position of its slot; those of one slot lie one after the other. A token
   of -1 has its vector in x already, padded with zeros. `turns` are rows of `cosines` and `sines`: the positions, but
   where these depend on how long a sequence is.
   x (num_tokens, padded hidden) gets the normed last hidden states, logits (num_wanted, padded vocab) what follows
   those of the tokens `wanted`. `adapters` has each token's, if any has one; `order` then has tokens with those of an
   adapter together, up to BATCH from one of `batches` to the next. One thread, or all of the team. */
void step(const Model *model, Team *team, int64_t num_threads, int64_t num_tokens, const int64_t *tokens,
          const int64_t *positions, const int64_t *turns, const int64_t *slots, const Change *const *adapters,
          const int64_t *order, const int64_t *batches, int64_t num_batches, int64_t num_wanted, const int64_t *wanted,
          float *x, float *logits, float *work) {
    if (!adapters) num_batches = num_tokens;
    Step step = {model,    num_tokens, num_wanted, tokens,      positions, turns,  slots, wanted,
                 adapters, order,      batches,    num_batches, x,         logits, work};
    team_run(team, num_threads, run, &step);
}
