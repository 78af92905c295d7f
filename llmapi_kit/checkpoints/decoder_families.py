"""In what families of decoders differ, in one table: a Llama is what is left where nothing does.

The table names, for each architecture, how its layers are built and which fields of its configuration change what is
computed. `Variant` is what that comes to for one model; the step in C, the reference for it, and the names and shapes
of weights follow it, and none of them knows a family by name. Free of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Activation = Literal["silu", "gelu_tanh", "clamped_swiglu"]
ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}

# Weights that belong to no layer, by their names in transformers
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
# A decoder layer's matrices, those in a row that are one product
PRODUCTS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
FUSED_PRODUCTS = (("self_attn.qkv_proj",), ("self_attn.o_proj",), ("mlp.gate_up_proj",), ("mlp.down_proj",))
ROUTER, SHARED_GATE = "mlp.gate", "mlp.shared_expert_gate"
SINKS = "self_attn.sinks"
EXPERT_PRODUCTS = (("gate_proj", "up_proj"), ("down_proj",))  # of each expert, as `PRODUCTS`


@dataclass(frozen=True, slots=True)
class Norms:
    """A layer's norms by the names of their weights; empty for none.

    Attributes:
        before_attention: of what attention is computed from.
        after_attention: of what it gives, before that is added.
        before_feed_forward: as the first.
        after_feed_forward: as the second.
    """

    before_attention: str = ""
    after_attention: str = ""
    before_feed_forward: str = ""
    after_feed_forward: str = ""

    def names(self) -> list[str]:
        """Those that there are."""
        each = (self.before_attention, self.after_attention, self.before_feed_forward, self.after_feed_forward)
        return [name for name in each if name]


BEFORE = Norms(before_attention="input_layernorm", before_feed_forward="post_attention_layernorm")
AFTER = Norms(after_attention="post_attention_layernorm", after_feed_forward="post_feedforward_layernorm")
AROUND = Norms("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")


@dataclass(frozen=True, slots=True)
class Experts:
    """Feed-forwards of which each token goes through a few.

    Attributes:
        num_experts: of a layer.
        per_token: how many of them a token goes through.
        intermediate_size: of each.
        renormalises: whether the shares of those that a token goes through add up to 1.
        shared_size: of the feed-forward that all tokens go through beside them; 0 for none.
        layers: for each, whether it has experts.
        has_bias: whether the router and each expert's matrices have biases.
    """

    num_experts: int
    per_token: int
    intermediate_size: int
    renormalises: bool
    shared_size: int
    layers: tuple[bool, ...]
    has_bias: bool = False


@dataclass(frozen=True, slots=True)
class Variant:
    """In what a model differs from a Llama.

    Attributes:
        norms: of a layer.
        norm_offset: what is added to a norm's weights.
        norms_all_heads: whether the norm of queries, and that of keys, is over all heads together.
        is_fused: whether the checkpoint has queries, keys and values in one matrix, and gate and up in another.
        activation: of the gate. ``clamped_swiglu`` is ``gate * sigmoid(swiglu_alpha * gate) * (up + 1)``.
        swiglu_alpha: of that.
        swiglu_limit: what gate is at most, and up on both sides of 0, in that.
        has_sinks: whether each head has a score beside those of its past, which takes a share of attention and gives
            nothing.
        embedding_scale: what embeddings are multiplied by.
        attention_scale: what scores are multiplied by; 0 for one over the root of a head's width.
        attention_softcap: scores are ``cap * tanh(score / cap)``; 0 for none.
        residual_multiplier: of what attention and feed-forward add.
        logit_scale: what logits are multiplied by.
        logit_softcap: as that of scores, after it.
        has_output_bias: whether the projection that ends attention has a bias.
        has_feed_forward_bias: whether those of the feed-forward have.
        rotations: of each layer, which of the rotary embeddings it has; -1 for none. Empty: all have the first.
        experts: None where all tokens go through the same feed-forward.
    """

    norms: Norms = BEFORE
    norm_offset: float = 0.0
    norms_all_heads: bool = False
    is_fused: bool = False
    activation: Activation = "silu"
    swiglu_alpha: float = 0.0
    swiglu_limit: float = 0.0
    has_sinks: bool = False
    embedding_scale: float = 1.0
    attention_scale: float = 0.0
    attention_softcap: float = 0.0
    residual_multiplier: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float = 0.0
    has_output_bias: bool = False
    has_feed_forward_bias: bool = False
    rotations: tuple[int, ...] = ()
    experts: Experts | None = None

    @property
    def products(self) -> tuple[tuple[str, ...], ...]:
        """Matrices of a layer, those in a row that are one product."""
        return FUSED_PRODUCTS if self.is_fused else PRODUCTS

    def rotation(self, layer: int) -> int:
        """Which rotary embedding a layer has; -1 for none."""
        return self.rotations[layer] if self.rotations else 0

    def has_experts(self, layer: int) -> bool:
        """Whether a layer's feed-forward is one of experts."""
        return self.experts is not None and self.experts.layers[layer]


# What fields of a configuration come to: a field of `Variant`, and its value
FIELDS: dict[str, tuple[str, Callable[[Any], float]]] = {
    "embedding_multiplier": ("embedding_scale", float),
    "attention_multiplier": ("attention_scale", float),
    "residual_multiplier": ("residual_multiplier", float),
    "logits_scaling": ("logit_scale", lambda value: 1 / value),
    "query_pre_attn_scalar": ("attention_scale", lambda value: value**-0.5),
    "attn_logit_softcapping": ("attention_softcap", lambda value: value or 0.0),
    "final_logit_softcapping": ("logit_softcap", lambda value: value or 0.0),
    "swiglu_alpha": ("swiglu_alpha", float),
    "swiglu_limit": ("swiglu_limit", float),
}


@dataclass(frozen=True, slots=True)
class Family:
    """How the models of an architecture are built.

    Attributes:
        built: what is the same for all of them.
        reads: fields of a configuration, of `FIELDS`, that it computes with.
        activation: the field that names the gate's; empty where it is the same for all.
        scales_embedding: whether embeddings are multiplied by the root of their width.
        has_one_window: whether ``sliding_window`` holds for all layers, and not for those that say so.
        expert_size: the field that has the width of an expert; empty for a family without experts.
        renormalises: see `Experts`; None where ``norm_topk_prob`` says it.
        experts_have_bias: see `Experts`.
        experts_are_transposed: see `llmapi_kit.checkpoints.expert_tensors.apart`.
        model_type: its name in a configuration.
        biases: for queries, keys and values together, for attention's output, and for the feed-forward: the field that
            says whether there are any, or the answer.
        has_qk_norm: whether queries and keys are normed.
        full_every: of layers by turns with a window and without, where nothing says which, each so many-th has none.
        has_rope_by_layer: whether each kind of layer has a rotary embedding of its own.
        starts_anew: whether `generate` computes a sequence that outgrows the original context by LongRoPE anew; else
            what was computed stays as it is.
    """

    built: Variant = field(default_factory=Variant)
    reads: tuple[str, ...] = ()
    activation: str = "hidden_act"
    scales_embedding: bool = False
    has_one_window: bool = False
    expert_size: str = ""
    renormalises: bool | None = None
    experts_have_bias: bool = False
    experts_are_transposed: bool = False
    model_type: str = ""
    biases: tuple[str | bool, str | bool, str | bool] = (False, False, False)
    has_qk_norm: bool = False
    full_every: int = 0
    has_rope_by_layer: bool = False
    starts_anew: bool = False


_GEMMA_2 = ("query_pre_attn_scalar", "final_logit_softcapping")
_OLMO = Variant(norms=AFTER, norms_all_heads=True)
_ATTENTION = ("attention_bias", "attention_bias", False)
_ALL = ("attention_bias", "attention_bias", "mlp_bias")
FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family(model_type="llama", biases=_ALL),
    "MistralForCausalLM": Family(model_type="mistral", has_one_window=True),
    "Qwen2ForCausalLM": Family(model_type="qwen2", biases=(True, False, False)),
    "Qwen3ForCausalLM": Family(model_type="qwen3", biases=_ATTENTION, has_qk_norm=True),
    "SmolLM3ForCausalLM": Family(model_type="smollm3", biases=_ALL),
    "MinistralForCausalLM": Family(model_type="ministral"),
    "SeedOssForCausalLM": Family(model_type="seed_oss", biases=("attention_bias", "attention_out_bias", "mlp_bias")),
    "CwmForCausalLM": Family(model_type="cwm", biases=(False, False, "mlp_bias")),
    "Phi3ForCausalLM": Family(Variant(is_fused=True), model_type="phi3", has_one_window=True, starts_anew=True),
    "GraniteForCausalLM": Family(
        reads=("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"),
        model_type="granite",
        biases=_ALL,
    ),
    "Olmo2ForCausalLM": Family(_OLMO, model_type="olmo2", biases=_ATTENTION, has_qk_norm=True),
    "Olmo3ForCausalLM": Family(
        _OLMO, model_type="olmo3", biases=_ATTENTION, has_qk_norm=True, full_every=4, has_rope_by_layer=True
    ),
    "GemmaForCausalLM": Family(Variant(norm_offset=1.0), scales_embedding=True, model_type="gemma", biases=_ATTENTION),
    "Gemma2ForCausalLM": Family(
        Variant(norms=AROUND, norm_offset=1.0),
        reads=(*_GEMMA_2, "attn_logit_softcapping"),
        activation="hidden_activation",
        scales_embedding=True,
        model_type="gemma2",
        biases=_ATTENTION,
        full_every=2,
    ),
    "Gemma3ForCausalLM": Family(
        Variant(norms=AROUND, norm_offset=1.0),
        reads=_GEMMA_2,
        activation="hidden_activation",
        scales_embedding=True,
        model_type="gemma3_text",
        biases=_ATTENTION,
        has_qk_norm=True,
        full_every=6,
        has_rope_by_layer=True,
    ),
    "MixtralForCausalLM": Family(
        has_one_window=True, expert_size="intermediate_size", renormalises=True, model_type="mixtral"
    ),
    "OlmoeForCausalLM": Family(
        Variant(norms_all_heads=True),
        expert_size="intermediate_size",
        model_type="olmoe",
        biases=_ATTENTION,
        has_qk_norm=True,
    ),
    "Qwen2MoeForCausalLM": Family(
        expert_size="moe_intermediate_size", model_type="qwen2_moe", biases=("qkv_bias", False, False)
    ),
    "Qwen3MoeForCausalLM": Family(
        expert_size="moe_intermediate_size", model_type="qwen3_moe", biases=_ATTENTION, has_qk_norm=True
    ),
    "GptOssForCausalLM": Family(
        Variant(activation="clamped_swiglu", has_sinks=True),
        reads=("swiglu_alpha", "swiglu_limit"),
        activation="",
        expert_size="intermediate_size",
        renormalises=True,
        experts_have_bias=True,
        experts_are_transposed=True,
        model_type="gpt_oss",
        biases=_ATTENTION,
        full_every=2,
    ),
}


def scalars(family: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `Variant` that numbers of a configuration come to."""
    found = {name: value(config[read]) for read in family.reads for name, value in [FIELDS[read]]}
    if family.scales_embedding:
        found["embedding_scale"] = config["hidden_size"] ** 0.5
    return found


def layer_shapes(config: Any, layer: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor of a layer, in the order of transformers' modules.

    Args:
        config: a `DecoderConfig`.
        layer: its index.
    """
    variant: Variant = config.variant
    hidden, head_dim = config.hidden_size, config.head_dim
    queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    parts: dict[str, tuple[int, ...]] = {}
    sizes = {"qkv": queries + 2 * keys} if variant.is_fused else {"q": queries, "k": keys, "v": keys}
    for name, size in sizes.items():
        parts |= _linear(f"self_attn.{name}_proj", size, hidden, has_bias=config.has_qkv_bias)
    parts |= _linear("self_attn.o_proj", hidden, queries, has_bias=variant.has_output_bias)
    if config.has_qk_norm:
        widths = (queries, keys) if variant.norms_all_heads else (head_dim, head_dim)
        parts |= {f"self_attn.{name}_norm.weight": (width,) for name, width in zip("qk", widths, strict=True)}
    if variant.has_sinks:
        parts[SINKS] = (config.num_attention_heads,)
    parts.update(_expert_shapes(variant.experts, hidden) if variant.has_experts(layer) else _dense_shapes(config))
    parts.update({f"{name}.weight": (hidden,) for name in variant.norms.names()})
    return parts


def _linear(name: str, outputs: int, inputs: int, *, has_bias: bool = False) -> dict[str, tuple[int, ...]]:
    parts: dict[str, tuple[int, ...]] = {f"{name}.weight": (outputs, inputs)}
    if has_bias:
        parts[f"{name}.bias"] = (outputs,)
    return parts


def _dense_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    inner, has_bias = config.intermediate_size, config.variant.has_feed_forward_bias
    sizes = {"gate_up": 2 * inner} if config.variant.is_fused else {"gate": inner, "up": inner}
    parts: dict[str, tuple[int, ...]] = {}
    for name, size in sizes.items():
        parts |= _linear(f"mlp.{name}_proj", size, config.hidden_size, has_bias=has_bias)
    return parts | _linear("mlp.down_proj", config.hidden_size, inner, has_bias=has_bias)


def _expert_shapes(experts: Experts | None, hidden: int) -> dict[str, tuple[int, ...]]:
    if experts is None:
        return {}
    inner, has_bias = experts.intermediate_size, experts.has_bias
    parts = _linear(ROUTER, experts.num_experts, hidden, has_bias=has_bias)
    for index in range(experts.num_experts):
        for name in ("gate", "up"):
            parts |= _linear(f"mlp.experts.{index}.{name}_proj", inner, hidden, has_bias=has_bias)
        parts |= _linear(f"mlp.experts.{index}.down_proj", hidden, inner, has_bias=has_bias)
    if experts.shared_size:
        parts |= {f"mlp.shared_expert.{name}_proj.weight": (experts.shared_size, hidden) for name in ("gate", "up")}
        parts |= _linear("mlp.shared_expert.down_proj", hidden, experts.shared_size)
        parts |= _linear(SHARED_GATE, 1, hidden)
    return parts
