/* Feed-forwards of which each token goes through a few, chosen by a router: mixtures of experts.

   Expert after expert, each with the tokens that chose it, so that its weights are read once. A token's sum is made in
   the order of experts, whatever else is in the step. */

#include "pass.h"

static float inner_product(const float *a, const float *b, long size) {
    vec sums = {0};
    long i = 0;
    for (; i + LANES <= size; i += LANES) sums += *(const vec *)(a + i) * *(const vec *)(b + i);
    float sum = total(sums);
    for (; i < size; i++) sum += a[i] * b[i];
    return sum;
}

/* Chooses a token's experts by its inputs, which are not rounded yet: those with the highest scores, each with a share
   as softmax over all scores has it. */
static void route(const Pass *pass, const Layer *layer, long t) {
    const Model *model = pass->model;
    const long count = model->num_experts, chosen = model->experts_per_token, hidden = model->hidden;
    const float *h = pass->h + t * pass->w.h;
    float *shares = pass->routed.shares + t * chosen, scores[count], peak = -INFINITY, sum = 0, kept = 0;
    for (long e = 0; e < count; e++) {
        scores[e] = inner_product(layer->router + e * hidden, h, hidden);
        if (layer->router_bias) scores[e] += layer->router_bias[e];
        peak = scores[e] > peak ? scores[e] : peak;
    }
    for (long e = 0; e < count; e++) sum += scores[e] = expf(scores[e] - peak);
    for (long k = 0; k < chosen; k++) {
        long best = sum > 0 ? 0 : k; /* where scores are no numbers, each is chosen once, too: `inputs` has no more room */
        for (long e = 0; e < count && sum > 0; e++) best = scores[e] > scores[best] ? e : best;
        pass->routed.chosen[t * chosen + k] = best;
        kept += shares[k] = scores[best];
        scores[best] = -1;
    }
    const float scale = model->residual_multiplier / (model->renormalises ? kept : sum);
    for (long k = 0; k < chosen; k++) shares[k] *= scale;
    if (model->has_shared_gate)
        pass->routed.gates[t] = 1 / (1 + expf(-inner_product(layer->router + count * hidden, h, hidden)));
}

/* Sorts pairs of a token and an expert by expert. */
static void sort_pairs(const Pass *pass) {
    const long pairs = pass->step->num_tokens * pass->model->experts_per_token, count = pass->model->num_experts;
    const int32_t *chosen = pass->routed.chosen;
    int32_t *begins = pass->routed.begins;
    memset(begins, 0, (count + 1) * sizeof(int32_t));
    for (long i = 0; i < pairs; i++) begins[chosen[i] + 1]++;
    for (long e = 0; e < count; e++) begins[e + 1] += begins[e];
    int32_t next[count];
    memcpy(next, begins, count * sizeof(int32_t));
    for (long i = 0; i < pairs; i++) pass->routed.order[next[chosen[i]]++] = i;
}

/* Adds to x what an expert gives its tokens, which stand as `pairs`. */
static void compute_expert(const Pass *pass, const Expert *expert, const int32_t *pairs, long num) {
    const Model *model = pass->model;
    const Widths w = pass->w;
    const long k = model->experts_per_token, inner = model->expert_inner;
    float *inputs = pass->routed.inputs;
    SHARED(pass->team, i, num, 4)
        memcpy(inputs + i * w.h, pass->h + pairs[i] / k * w.h, row_size(model->hidden) * sizeof(float));
    barrier(pass->team);
    multiply(pass->team, num, inputs, w.h, &expert->gate_up, model->hidden, PADDED(2 * inner, PANEL),
             expert->gate_up_bias, 0, pass->gate_up, w.gate_up);
    SHARED(pass->team, i, num, 4) {
        activate(model, pass->gate_up + i * w.gate_up, inner, inputs + i * w.h);
        round_inputs(inputs + i * w.h, inner);
    }
    barrier(pass->team);
    multiply(pass->team, num, inputs, w.h, &expert->down, inner, w.x, expert->down_bias, 0, pass->qkv, w.qkv);
    SHARED(pass->team, i, num, 4) {
        float *x = pass->x + pairs[i] / k * w.x;
        const float *added = pass->qkv + i * w.qkv, share = pass->routed.shares[pairs[i]];
        for (long j = 0; j < model->hidden; j++) x[j] += share * added[j];
    }
    barrier(pass->team);
}

/* Adds to x what the feed-forward gives that all tokens go through beside their experts. */
static void compute_shared_expert(const Pass *pass, const Layer *layer) {
    const Model *model = pass->model;
    const Widths w = pass->w;
    const long n = pass->step->num_tokens;
    multiply(pass->team, n, pass->h, w.h, &layer->gate_up, model->hidden, PADDED(2 * layer->inner, PANEL), 0, 0,
             pass->gate_up, w.gate_up);
    SHARED(pass->team, t, n, 4) {
        activate(model, pass->gate_up + t * w.gate_up, layer->inner, pass->h + t * w.h);
        round_inputs(pass->h + t * w.h, layer->inner);
    }
    barrier(pass->team);
    multiply(pass->team, n, pass->h, w.h, &layer->down, layer->inner, w.x, 0, 0, pass->qkv, w.qkv);
    SHARED(pass->team, t, n, 4) {
        const float share = model->residual_multiplier * (model->has_shared_gate ? pass->routed.gates[t] : 1);
        for (long j = 0; j < model->hidden; j++) pass->x[t * w.x + j] += share * pass->qkv[t * w.qkv + j];
    }
    barrier(pass->team);
}

static void compute_experts(const Pass *pass, long l) {
    const Layer *layer = pass->model->layers + l;
    if (!pass->index) sort_pairs(pass);
    barrier(pass->team);
    const int32_t *begins = pass->routed.begins;
    for (long e = 0; e < pass->model->num_experts; e++)
        if (begins[e + 1] > begins[e])
            compute_expert(pass, layer->experts + e, pass->routed.order + begins[e], begins[e + 1] - begins[e]);
    if (layer->gate_up.weights) compute_shared_expert(pass, layer);
}
