"""The configuration of a Llama-like decoder, read without transformers; only where every field of it is understood.

Importing a configuration class of transformers takes longer than importing torch. What is read here is a list of
fields whose meaning is known: those that change what a model computes, at values that `runners/native` computes with,
and those that change nothing. Any other field, type or value, and a damaged file, gives None, and transformers reads
the configuration and says what is wrong with it. So nothing is accepted here that transformers refuses, and no field
of a family to come is overlooked. Free of torch; a test compares it with transformers' own classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmapi_kit.checkpoints.decoder_families import Variant
from llmapi_kit.checkpoints.model_files import CONFIG, read_json
from llmapi_kit.errors import ModelLoadError

MAX_NUMBER = 2**31
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
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
READ_BY_FAMILY = {"llama": {"pretraining_tp"}, "mistral": {"sliding_window"}, "qwen2": WINDOWS, "qwen3": WINDOWS}
# About training, or about how transformers generates
IGNORED = {"attention_dropout", "initializer_range", "use_cache", "transformers_version", "_name_or_path"}
ROPE_FACTORS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
ROPE_NUMBERS: dict[str, tuple[str, ...]] = {"default": (), "linear": ROPE_FACTORS[:1], "llama3": ROPE_FACTORS}


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding; a field that its kind does not use is 0.

    Attributes:
        kind: how frequencies are scaled, as transformers' `rope_type`.
        theta: the longest wavelength, in positions.
        factor: positions are stretched by it.
        low_freq_factor: wavelengths above the original context by this factor are stretched, ...
        high_freq_factor: ... those below it by this one are not, and those between are in part.
        original_max_position_embeddings: the context in training.
    """

    kind: Literal["default", "linear", "llama3"]
    theta: float
    factor: float = 0.0
    low_freq_factor: float = 0.0
    high_freq_factor: float = 0.0
    original_max_position_embeddings: float = 0.0


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """What a decoder computes, by the names of config.json.

    Attributes:
        architecture: its class in transformers.
        has_qkv_bias: whether the projections to queries, keys and values add a bias.
        has_qk_norm: whether queries and keys are normed.
        windows: of each layer, how many of the latest positions it sees; 0 for all.
        rope: None where the weights come with their own frequencies.
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
    rope: Rope | None
    eos_token_id: int | list[int] | None
    dtype: str | None
    quantization: Mapping[str, Any] | None = None
    variant: Variant = field(default_factory=Variant)

    def get_text_config(self) -> DecoderConfig:
        """Itself, as it has no other part; a configuration of transformers may."""
        return self


class _UnknownError(Exception):
    """A field, type or value that is for transformers to judge."""


def read_decoder_config(folder: Path) -> DecoderConfig | None:
    """The configuration in a folder; None where transformers has to read it."""
    try:
        return _parse(read_json(folder / CONFIG))
    except (_UnknownError, ModelLoadError):
        return None


def _parse(values: Mapping[str, Any]) -> DecoderConfig:
    family = values.get("model_type")
    architecture = ARCHITECTURES.get(family) if isinstance(family, str) else None
    if architecture is None or not isinstance(family, str):
        raise _UnknownError
    _require(values.get("architectures") == [architecture])
    _require(values.keys() <= READ | READ_BY_FAMILY[family] | IGNORED)
    _check_ignored(values)
    sizes: dict[str, Any] = {name: _size(values.get(name)) for name in SIZES}
    heads = sizes["num_attention_heads"]
    kv_heads = _kv_heads(values, family, heads)
    head_dim = _head_dim(values, family, sizes["hidden_size"], heads)
    _require(heads % kv_heads == 0 and head_dim % 2 == 0)
    _require(sizes["hidden_size"] % 2 == 0 and sizes["intermediate_size"] % 2 == 0)
    _require(values.get("hidden_act") == "silu")
    _require(type(values.get("rms_norm_eps")) is float and values["rms_norm_eps"] > 0)
    _require(not values.get("attention_bias") and not values.get("mlp_bias"))
    return DecoderConfig(
        architecture=architecture,
        **sizes,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=values["rms_norm_eps"],
        tie_word_embeddings=_flag(values, "tie_word_embeddings"),
        has_qkv_bias=family == "qwen2",
        has_qk_norm=family == "qwen3",
        windows=_windows(values, family, sizes["num_hidden_layers"]),
        rope=_rope(values),
        eos_token_id=_token_ids(values, sizes["vocab_size"]),
        dtype=_dtype(values),
        quantization=_quantization(values),
    )


def _require(condition: bool) -> None:
    if not condition:
        raise _UnknownError


def _size(value: Any) -> int:
    if type(value) is not int or not 0 < value < MAX_NUMBER:
        raise _UnknownError
    return value


def _flag(values: Mapping[str, Any], name: str) -> bool:
    value = values.get(name, False)
    _require(type(value) is bool)
    return bool(value)


def _kv_heads(values: Mapping[str, Any], family: str, heads: int) -> int:
    """Families differ in what holds where it does not stand in the file; null is as many as heads to all."""
    if "num_key_value_heads" not in values:
        _require(family == "llama")
        return heads
    value = values["num_key_value_heads"]
    return heads if value is None else _size(value)


def _head_dim(values: Mapping[str, Any], family: str, hidden: int, heads: int) -> int:
    _require(family != "llama" or hidden % heads == 0)
    value = values.get("head_dim")
    if value is None:
        _require(family != "qwen3" and hidden % heads == 0)
        return hidden // heads
    return _size(value)


def _windows(values: Mapping[str, Any], family: str, num_layers: int) -> tuple[int, ...]:
    if family == "llama":
        return (0,) * num_layers
    if family == "mistral":
        _require("sliding_window" in values)
        window = values["sliding_window"]
        return (0 if window is None else _size(window),) * num_layers
    if not _flag(values, "use_sliding_window"):
        _require(values.get("layer_types") in (None, ["full_attention"] * num_layers))
        return (0,) * num_layers
    window, first = _size(values.get("sliding_window")), values.get("max_window_layers")
    if values.get("layer_types") is None:
        _require(type(first) is int)
        return tuple(window if index >= int(str(first)) else 0 for index in range(num_layers))
    kinds = values["layer_types"]
    _require(isinstance(kinds, list) and len(kinds) == num_layers)
    _require(all(kind in ("full_attention", "sliding_attention") for kind in kinds))
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


def _rope(values: Mapping[str, Any]) -> Rope:
    """What older files say in `rope_theta` and `rope_scaling`, and newer ones in `rope_parameters`."""
    given = [values[name] for name in ("rope_scaling", "rope_parameters") if values.get(name) is not None]
    _require(len(given) <= 1 and all(isinstance(each, Mapping) for each in given))
    rope: Mapping[str, Any] = given[0] if given else {}
    kinds = {rope[name] for name in ("rope_type", "type") if isinstance(rope.get(name), str)} or {"default"}
    thetas = {each["rope_theta"] for each in (rope, values) if _is_number(each.get("rope_theta"))}
    _require(len(kinds) == len(thetas) == 1)
    kind, theta = kinds.pop(), thetas.pop()
    _require(kind in ROPE_NUMBERS and theta > 0)
    names = ROPE_NUMBERS[kind]
    _require(rope.keys() <= {"rope_type", "type", "rope_theta", *names})
    _require(all(_is_number(rope.get(name)) and rope[name] > 0 for name in names))
    if kind == "llama3":
        _require(rope["low_freq_factor"] < rope["high_freq_factor"])
    return Rope(kind, float(theta), **{name: float(rope[name]) for name in names})


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _token_ids(values: Mapping[str, Any], num_tokens: int) -> Any:
    """`eos_token_id`; all three tokens are looked at."""
    for name in ("bos_token_id", "pad_token_id", "eos_token_id"):
        value = values.get(name)
        ids = value if isinstance(value, list) and name == "eos_token_id" else [] if value is None else [value]
        _require(all(type(each) is int and 0 <= each < num_tokens for each in ids))
    return values.get("eos_token_id")


def _dtype(values: Mapping[str, Any]) -> str | None:
    named = [values[name] for name in ("dtype", "torch_dtype") if values.get(name) is not None]
    _require(all(isinstance(name, str) for name in named) and len(set(named)) <= 1)
    return named[0] if named else None


def _quantization(values: Mapping[str, Any]) -> Mapping[str, Any] | None:
    quantization = values.get("quantization_config")
    _require(quantization is None or (isinstance(quantization, Mapping) and "quant_method" in quantization))
    return quantization


def _check_ignored(values: Mapping[str, Any]) -> None:
    """Raise where transformers would not take a field that changes nothing."""
    dropout, spread = values.get("attention_dropout", 0.0), values.get("initializer_range", 0.02)
    _require(_is_number(dropout) and type(spread) is float and 0 <= spread <= 1)
    _require(type(values.get("use_cache", True)) is bool)
    _require(values.get("pretraining_tp") is None or type(values["pretraining_tp"]) is int)
    _require(all(isinstance(values.get(name, ""), str) for name in ("transformers_version", "_name_or_path")))
