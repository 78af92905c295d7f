/* What a model is to the step: its shape, its weights, and all in which families of decoders differ.

   `checkpoints/decoder_families.py` is where the differences come from, by the names that transformers has for them.
   Mirrored by ctypes structures in structures.py. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "adapters.h"

#if defined(MEMORY_INT8)
typedef int8_t stored;
#define SCALES (LANES * (long)sizeof(float)) /* elements that scales take */
INLINE vec load(const stored *from) { return load_int8(from); }
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

enum { SILU, GELU_TANH, CLAMPED_SWIGLU }; /* config.hidden_act, in Gemma hidden_activation: "silu" and
                                             "gelu_pytorch_tanh"; the third in GPT-OSS, with `swiglu_alpha` */

/* Matrices of an expert's feed-forward, packed; as a layer's own. */
typedef struct {
    Matrix gate_up, down;
    const float *gate_up_bias, *down_bias; /* GPT-OSS */
} Expert;

/* Pointers, and those of matrices, are NULL where a layer does without. */
typedef struct {
    Matrix qkv, output, gate_up, down; /* the last two: of all tokens, beside experts or alone */
    /* norms: Llama has the first and the third, OLMo 2 the second and the fourth, Gemma 2 and 3 all of them */
    const float *before_attention, *after_attention, *before_feed_forward, *after_feed_forward;
    const float *query_norm, *key_norm; /* Qwen3, Gemma 3, and OLMo 2 with `norms_all_heads` */
    const float *qkv_bias, *output_bias, *gate_up_bias, *down_bias; /* config.attention_bias, mlp_bias */
    const float *sinks;           /* (heads): a score that each head has beside those of its past: GPT-OSS */
    const float *cosines, *sines; /* (turns, rotated); sines of the first half are negative. SmolLM3 has layers
                                     without positions: config.no_rope_layers; Gemma 3's differ by config.layer_types */
    const float *router;          /* (num_experts, hidden); in Qwen2-MoE one row more, the gate of `gate_up` and `down` */
    const float *router_bias;     /* (num_experts): GPT-OSS */
    const Expert *experts;        /* (num_experts) */
    int64_t inner;                /* outputs of gate: config.intermediate_size, shared_expert_intermediate_size */
    int64_t window;               /* config.sliding_window where the layer has it; 0: sees everything */
    float scaling;                /* of scores: 1 / sqrt(head_dim or config.query_pre_attn_scalar), or attention_multiplier */
} Layer;

typedef struct {
    int64_t num_layers, hidden, inner, heads, kv_heads, head_dim, vocab, max_length; /* inner: the largest of a layer */
    int64_t rotated;             /* of a head's numbers those that are turned: config.partial_rotary_factor of them */
    int64_t activation;          /* of the gate */
    int64_t norms_all_heads;     /* query_norm and key_norm are as long as all heads together: OLMo 2 and 3 */
    int64_t num_experts;         /* config.num_experts, num_local_experts; 0 for none */
    int64_t experts_per_token;   /* config.num_experts_per_tok */
    int64_t expert_inner;        /* config.moe_intermediate_size; in Mixtral intermediate_size */
    int64_t renormalises;        /* the chosen experts' shares add up to 1: config.norm_topk_prob, and in Mixtral */
    int64_t has_shared_gate;     /* of the router's rows, the last: Qwen2-MoE */
    float epsilon;               /* config.rms_norm_eps */
    float embedding_scale;       /* sqrt(hidden) in Gemma, config.embedding_multiplier in Granite */
    float residual_multiplier;   /* of what attention and feed-forward add: Granite's config.residual_multiplier */
    float attention_cap;         /* scores are cap * tanh(score / cap): config.attn_logit_softcapping; 0 for none */
    float logit_scale;           /* 1 / config.logits_scaling: Granite */
    float logit_cap;             /* config.final_logit_softcapping: Gemma; 0 for none */
    float swiglu_alpha;          /* config.swiglu_alpha: GPT-OSS, as the next */
    float swiglu_limit;          /* config.swiglu_limit: gate is at most that, up no further from 0 */
    Matrix embedding;            /* the head where they are one */
    Matrix head;
    const float *norm;
    const Layer *layers;
    stored *memory;
} Model;

