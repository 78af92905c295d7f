"""The configuration of a decoder, read without transformers; only where every field of it is understood.

Importing a configuration class of transformers takes longer than importing torch. What is read here is a list of
fields whose meaning is known: those that change what a model computes, at values that `runners/native` computes with,
and those that change nothing. Any other field, type or value, and a damaged file, gives None, and transformers reads
the configuration and says what is wrong with it. So nothing is accepted here that transformers refuses, and no field
of a family to come is overlooked. Free of torch; a test compares it with transformers' own classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmapi_kit.checkpoints.config_fields import UnknownValueError, flag, is_number, require, require_types, size
from llmapi_kit.checkpoints.decoder_families import ACTIVATIONS, FAMILIES, FIELDS, Experts, Family, Variant, scalars
from llmapi_kit.checkpoints.model_files import CONFIG, read_json
from llmapi_kit.checkpoints.rope_config import LAYER_KINDS, Rope, read_ropes
from llmapi_kit.errors import ModelLoadError

ARCHITECTURES = {family.model_type: name for name, family in FAMILIES.items()}
SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "max_position_embeddings"),
)
READ = {
    *SIZES,
    *("model_type", "architectures", "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps"),
    *("tie_word_embeddings", "rope_theta", "rope_scaling", "rope_parameters", "dtype", "torch_dtype"),
    *("eos_token_id", "bos_token_id", "pad_token_id", "attention_bias", "mlp_bias", "quantization_config"),
}
WINDOWS = {"sliding_window", "use_sliding_window", "max_window_layers", "layer_types"}
BY_LAYER = {"sliding_window", "layer_types"}
GEMMA = {"hidden_activation", "use_bidirectional_attention", "cache_implementation"}
ROUTED = {"num_experts", "num_local_experts", "num_experts_per_tok", "norm_topk_prob", "router_aux_loss_coef"}
ROUTED |= {"output_router_logits", "moe_intermediate_size", "decoder_sparse_step", "mlp_only_layers"}
OF_PHI_4 = ("full_attn_mod", "interpolate_factor")
READ_BY_FAMILY = {
    "llama": {"pretraining_tp"},
    "mistral": {"sliding_window"},
    "qwen2": WINDOWS,
    "qwen3": WINDOWS,
    "smollm3": {*WINDOWS, "no_rope_layers", "no_rope_layer_interval", "pretraining_tp"},
    "ministral": BY_LAYER,
    "seed_oss": {"attention_out_bias", "residual_dropout", "pretraining_tp"},
    "cwm": {*BY_LAYER, "pretraining_tp"},
    # `auto_map` names code of their own, which transformers does not run where it has a class for the family
    "phi3": {"sliding_window", "partial_rotary_factor", "original_max_position_embeddings", "resid_pdrop"}
    | {"embd_pdrop", "auto_map", "lm_head_bias", *OF_PHI_4},
    "olmo3": BY_LAYER,
    "gemma": {"use_bidirectional_attention"},
    "gemma2": {*GEMMA, *BY_LAYER},
    "gemma3_text": {*GEMMA, *BY_LAYER, "rope_local_base_freq", "sliding_window_pattern", "_sliding_window_pattern"}
    | {"attn_logit_softcapping"},
    "mixtral": {*ROUTED, "sliding_window", "router_jitter_noise"},
    "olmoe": {*ROUTED, "clip_qkv"},
    "qwen2_moe": {*ROUTED, *WINDOWS, "qkv_bias", "shared_expert_intermediate_size"},
    "qwen3_moe": {*ROUTED, *WINDOWS},
    "gpt_oss": {*ROUTED, *BY_LAYER, "experts_per_token", "initial_context_length"},
}
# What holds where a file says nothing of it: fields that files leave out although it is not what others have
DEFAULTS: dict[str, dict[str, Any]] = {
    **{name: {"tie_word_embeddings": True} for name in ("gemma", "gemma2", "gemma3_text")},
    "qwen2_moe": {"qkv_bias": True},
    "gpt_oss": {"swiglu_alpha": 1.702},
}
# Fields that have to stand in a file, as what holds otherwise is transformers' to know
NEEDED = {
    **{name: {"head_dim"} for name in ("qwen3", "gemma", "gemma2", "gemma3_text")},
    "smollm3": {"tie_word_embeddings", "no_rope_layers"},
    "seed_oss": {"head_dim", "attention_bias"},
    "cwm": {"head_dim", "layer_types"},
    "ministral": {"layer_types"},
    "phi3": {"pad_token_id"},
    "gpt_oss": {"head_dim", "attention_bias"},
}
# Fields that are null in files of other families
NOT_NULL = {"cwm": ("bos_token_id", "pretraining_tp"), "seed_oss": ("pretraining_tp",)}
NULL_HEAD_DIM = {"llama", "mistral", "qwen2", "ministral", "mixtral"}
# About training, or about how transformers generates
IGNORED = {"attention_dropout", "initializer_range", "use_cache", "transformers_version", "_name_or_path"}


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """What a decoder computes, by the names of config.json.

    Attributes:
        architecture: its class in transformers.
        has_qkv_bias: whether the projections to queries, keys and values add a bias.
        has_qk_norm: whether queries and keys are normed.
        windows: of each layer, how many of the latest positions it sees; 0 for all.
        ropes: the rotary embeddings that layers have; empty where the weights come with their own frequencies.
        eos_token_id: as it stands in the file.
        dtype: that the file names for the weights; None where it names none.
        quantization: of weights that come quantized, as it stands in the file; see `packed_checkpoint`.
        variant: in what it differs from a Llama.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    has_qkv_bias: bool
    has_qk_norm: bool
    windows: tuple[int, ...]
    ropes: tuple[Rope, ...]
    eos_token_id: int | list[int] | None
    dtype: str | None
    quantization: Mapping[str, Any] | None = None
    variant: Variant = field(default_factory=Variant)

    def get_text_config(self) -> DecoderConfig:
        """Itself, as it has no other part; a configuration of transformers may."""
        return self


def read_decoder_config(folder: Path) -> DecoderConfig | None:
    """The configuration in a folder; None where transformers has to read it."""
    try:
        return _parse(read_json(folder / CONFIG))
    except (UnknownValueError, ModelLoadError):
        return None


def _parse(values: Mapping[str, Any]) -> DecoderConfig:
    name = values.get("model_type")
    architecture = ARCHITECTURES.get(name) if isinstance(name, str) else None
    if architecture is None or not isinstance(name, str):
        raise UnknownValueError
    family = FAMILIES[architecture]
    require(values.get("architectures") == [architecture])
    require(values.keys() <= READ | READ_BY_FAMILY.get(name, set()) | set(family.reads) | IGNORED)
    require(values.keys() >= NEEDED.get(name, set()) | {"eos_token_id"})
    require_types(values, NOT_NULL.get(name, ()), (int,))
    values = {**DEFAULTS.get(name, {}), **values}
    _check_ignored(values)
    sizes: dict[str, Any] = {key: size(values.get(key)) for key in SIZES}
    heads, num_layers = sizes["num_attention_heads"], sizes["num_hidden_layers"]
    kv_heads = _kv_heads(values, name, heads)
    head_dim = _head_dim(values, name, sizes["hidden_size"], heads)
    require(heads % kv_heads == 0 and head_dim % 2 == 0)
    require(sizes["hidden_size"] % 2 == 0 and sizes["intermediate_size"] % 2 == 0)
    require(type(values.get("rms_norm_eps")) is float and values["rms_norm_eps"] > 0)
    kinds = _layer_kinds(values, family, num_layers)
    ropes = read_ropes(values, is_by_layer=family.has_rope_by_layer, is_of_phi=name == "phi3")
    require(name != "phi3" or ropes[""].kind in ("default", "longrope"))  # for it, "yarn" is another
    named = sorted(set(kinds)) if family.has_rope_by_layer else [""]
    for rope in (ropes[each] for each in named):
        rotated = int(head_dim * rope.partial_rotary_factor)
        require(rotated % 2 == 0)
        require(rope.kind != "longrope" or len(rope.short_factor) == len(rope.long_factor) == rotated // 2)
    has_qkv_bias, has_output_bias, has_feed_forward_bias = (_has_bias(values, each) for each in family.biases)
    variant = replace(
        _variant(values, family),
        has_output_bias=has_output_bias,
        has_feed_forward_bias=has_feed_forward_bias,
        rotations=_rotations(values, kinds, num_layers, named),
        experts=_experts(values, family, num_layers),
    )
    return DecoderConfig(
        architecture=architecture,
        **sizes,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=values["rms_norm_eps"],
        tie_word_embeddings=flag(values, "tie_word_embeddings"),
        has_qkv_bias=has_qkv_bias,
        has_qk_norm=family.has_qk_norm,
        windows=_windows(values, name, kinds, num_layers),
        ropes=tuple(ropes[each] for each in named),
        eos_token_id=_token_ids(values, sizes["vocab_size"]),
        dtype=_dtype(values),
        quantization=_quantization(values),
        variant=variant,
    )


def _kv_heads(values: Mapping[str, Any], family: str, heads: int) -> int:
    """Families differ in what holds where it does not stand in the file; null is as many as heads to the oldest."""
    if "num_key_value_heads" not in values:
        require(family == "llama")
        return heads
    value = values["num_key_value_heads"]
    if value is None:
        require(family in ("llama", "qwen2", "qwen3"))
        return heads
    return size(value)


def _head_dim(values: Mapping[str, Any], family: str, hidden: int, heads: int) -> int:
    require(hidden % heads == 0)
    if "head_dim" not in values or (values["head_dim"] is None and family in NULL_HEAD_DIM):
        return hidden // heads
    require(family != "phi3")
    return size(values["head_dim"])


def _has_bias(values: Mapping[str, Any], told_by: str | bool) -> bool:
    """Whether a family has some biases; where no field tells, none may say so."""
    return flag(values, told_by) if isinstance(told_by, str) else told_by


def _variant(values: Mapping[str, Any], family: Family) -> Variant:
    """What numbers and names of a configuration come to."""
    told_by = {name for name in family.biases if isinstance(name, str)}
    require(not any(values.get(name) for name in {"attention_bias", "mlp_bias"} - told_by))
    for name in family.reads:
        may_be_null = FIELDS[name][0].endswith("_softcap")
        require(name in values and (is_number(values[name]) or (values[name] is None and may_be_null)))
        require(values[name] is None or values[name] > 0)
    require("attn_logit_softcapping" in family.reads or values.get("attn_logit_softcapping") is None)
    activation = family.built.activation
    require_types(values, ("hidden_act",), (str,))
    if family.activation:
        named = values.get(family.activation)
        require(isinstance(named, str) and named in ACTIVATIONS)
        activation = ACTIVATIONS[str(named)]
    return replace(family.built, **scalars(family, values), activation=activation)


def _experts(values: Mapping[str, Any], family: Family, num_layers: int) -> Experts | None:
    if not family.expert_size:
        return None
    counts = {size(values[name]) for name in ("num_experts", "num_local_experts") if name in values}
    require(len(counts) == 1)
    renormalises = family.renormalises
    if renormalises is None:
        require("norm_topk_prob" in values)
        renormalises = flag(values, "norm_topk_prob")
    inner, per_token = size(values.get(family.expert_size)), size(values.get("num_experts_per_tok"))
    num_experts = counts.pop()
    require(inner % 2 == 0 and per_token <= num_experts)
    shared = size(values.get("shared_expert_intermediate_size")) if family.model_type == "qwen2_moe" else 0
    require(shared % 2 == 0)
    layers = _layers_with_experts(values, family, num_layers)
    if not any(layers):
        return None
    return Experts(num_experts, per_token, inner, renormalises, shared, layers, family.experts_have_bias)


def _layers_with_experts(values: Mapping[str, Any], family: Family, num_layers: int) -> tuple[bool, ...]:
    if family.expert_size != "moe_intermediate_size":
        return (True,) * num_layers
    every, without = size(values.get("decoder_sparse_step")), values.get("mlp_only_layers")
    require(isinstance(without, list) and all(type(each) is int for each in without))
    return tuple(index not in list(without or ()) and (index + 1) % every == 0 for index in range(num_layers))


def _layer_kinds(values: Mapping[str, Any], family: Family, num_layers: int) -> list[str]:
    """Of each layer, ``full_attention`` or ``sliding_attention``; empty where nothing says it."""
    kinds = values.get("layer_types")
    if kinds is not None:
        require(isinstance(kinds, list) and len(kinds) == num_layers)
        require(all(kind in LAYER_KINDS for kind in kinds))
        return list(kinds)
    if not family.full_every:
        return []
    every = size(values.get("sliding_window_pattern", family.full_every))
    return [LAYER_KINDS[(index + 1) % every != 0] for index in range(num_layers)]


def _windows(values: Mapping[str, Any], name: str, kinds: list[str], num_layers: int) -> tuple[int, ...]:
    fields = READ_BY_FAMILY.get(name, set())
    if "sliding_window" not in fields:
        return (0,) * num_layers
    if "use_sliding_window" in fields and not flag(values, "use_sliding_window"):
        require(set(kinds) <= {"full_attention"})
        return (0,) * num_layers
    if FAMILIES[ARCHITECTURES[name]].has_one_window:
        require("sliding_window" in values)
        window = values["sliding_window"]
        return (0 if window is None else size(window),) * num_layers
    if name in ("qwen2", "qwen3") and not kinds:
        first = values.get("max_window_layers")
        require(type(first) is int)
        kinds = [LAYER_KINDS[index >= int(str(first))] for index in range(num_layers)]
    require(bool(kinds) and name not in ("qwen2_moe", "qwen3_moe"))
    if "sliding_attention" not in kinds:
        return (0,) * num_layers
    window = size(values.get("sliding_window"))
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


def _rotations(values: Mapping[str, Any], kinds: list[str], num_layers: int, named: list[str]) -> tuple[int, ...]:
    """See `Variant.rotations`."""
    if named != [""]:
        return tuple(named.index(kind) for kind in kinds)
    is_turned = values.get("no_rope_layers", [1] * num_layers)
    require(isinstance(is_turned, list) and len(is_turned) == num_layers and all(each in (0, 1) for each in is_turned))
    return () if all(is_turned) else tuple(0 if each else -1 for each in is_turned)


def _token_ids(values: Mapping[str, Any], num_tokens: int) -> Any:
    """`eos_token_id`; all three tokens are looked at."""
    for name in ("bos_token_id", "pad_token_id", "eos_token_id"):
        value = values.get(name)
        ids = value if isinstance(value, list) and name == "eos_token_id" else [] if value is None else [value]
        require(all(type(each) is int and 0 <= each < num_tokens for each in ids))
    return values.get("eos_token_id")


def _dtype(values: Mapping[str, Any]) -> str | None:
    named = [values[name] for name in ("dtype", "torch_dtype") if values.get(name) is not None]
    require(all(isinstance(name, str) for name in named) and len(set(named)) <= 1)
    return named[0] if named else None


def _quantization(values: Mapping[str, Any]) -> Mapping[str, Any] | None:
    quantization = values.get("quantization_config")
    require(quantization is None or (isinstance(quantization, Mapping) and "quant_method" in quantization))
    return quantization


def _check_ignored(values: Mapping[str, Any]) -> None:
    """Raise where transformers would not take a field that changes nothing."""
    dropout, spread = values.get("attention_dropout", 0.0), values.get("initializer_range", 0.02)
    require(is_number(dropout) and type(spread) is float and 0 <= spread <= 1)
    require(type(values.get("use_cache", True)) is bool)
    require(values.get("pretraining_tp") is None or type(values["pretraining_tp"]) is int)
    require(type(values.get("auto_map", {})) is dict)
    require_types(values, ("transformers_version", "_name_or_path", "cache_implementation"), (str,))
    require_types(values, ("router_aux_loss_coef", "router_jitter_noise"), (float,))
    require_types(values, ("residual_dropout", "resid_pdrop", "embd_pdrop"), (int, float))
    require_types(values, ("output_router_logits",), (bool,))
    require_types(values, ("sliding_window",), (int, type(None)))
    require_types(values, ("use_bidirectional_attention",), (bool, type(None)))
    require_types(values, ("query_pre_attn_scalar",), (int,))
    require_types(values, ("max_window_layers", "original_max_position_embeddings", "experts_per_token"), (int,))
    require_types(values, ("initial_context_length", "no_rope_layer_interval"), (int,))
    require(not values.get("use_bidirectional_attention") and values.get("clip_qkv") is None)
    # In code that came with Phi-4-mini; transformers' own has no such thing
    require(not values.get("lm_head_bias") and all(values.get(name, 1) == 1 for name in OF_PHI_4))
