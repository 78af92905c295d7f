"""A GGUF file's model as the step in C computes it: its configuration, and where each of its weights lies in the file.

llama.cpp runs whatever a GGUF file has; the step in C is several times sooner where it knows the architecture and the
number formats, on a CPU. As in `decoder_config`, any key, tensor or format whose meaning is not known gives None, and
the file is llama.cpp's. Reads no weights. Free of torch.

Source: https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py for names of keys and tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from llmapi_kit.checkpoints.config_fields import UnknownValueError, positive, require, size
from llmapi_kit.checkpoints.decoder_config import DecoderConfig
from llmapi_kit.checkpoints.decoder_families import (
    EMBEDDING,
    EXPERT_PRODUCTS,
    FAMILIES,
    HEAD,
    NORM,
    ROUTER,
    Experts,
    Variant,
    layer_shapes,
)
from llmapi_kit.checkpoints.gguf_file import GgufFile
from llmapi_kit.checkpoints.gguf_header import GgufHeader, GgufTensor
from llmapi_kit.checkpoints.rope_config import Rope

# Bits of a weight in memory, by its number format in the file; of Q6_K, weights are rounded once more
BITS = {"Q4_0": 4, "Q4_1": 4, "Q4_K": 4, "Q5_0": 8, "Q5_1": 8, "Q5_K": 8, "Q6_K": 8, "Q8_0": 8}
GROUP = 32  # inputs that share a scale and a minimum, which take 2 bytes each
FLOATS = {"F32": 4, "F16": 2, "BF16": 2}
# Of the file's size: more than that is not taken for speed
MAX_GROWTH, FREE_GROWTH_BYTES = 1.25, 256 * 2**20

FREQUENCIES = "rope_freqs.weight"
STORED = {EMBEDDING: "token_embd.weight", HEAD: "output.weight", NORM: "output_norm.weight"}
STORED_PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_up_proj": "ffn_up",
    ROUTER: "ffn_gate_inp",
}
STORED_EXPERTS = {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"}
EXPERT = re.compile(r"mlp\.experts\.(?P<expert>\d+)\.(?P<part>\w+)")
# Of the norms of a layer, by their places in `Norms`
STORED_NORMS = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
READ = {
    *("context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"),
    *("attention.layer_norm_rms_epsilon", "attention.causal", "rope.freq_base", "rope.dimension_count"),
    *("rope.scaling.type", "rope.scaling.factor", "expert_count", "expert_used_count"),
}
WINDOW, LOCAL_THETA = "attention.sliding_window", "rope.freq_base_swa"
EXPERT_SIZE = "expert_feed_forward_length"
TURNED = ("self_attn.q_proj", "self_attn.k_proj")
# Keys that a field of `Variant` is read from, and what it comes to
SCALARS: dict[str, tuple[str, Callable[[float], float]]] = {
    "embedding_scale": ("embedding_scale", float),
    "residual_scale": ("residual_multiplier", float),
    "attention.scale": ("attention_scale", float),
    "logit_scale": ("logit_scale", lambda value: 1 / value),
    "attn_logit_softcapping": ("attention_softcap", float),
    "final_logit_softcapping": ("logit_softcap", float),
}


@dataclass(frozen=True, slots=True)
class GgufFamily:
    """An architecture of GGUF that the step in C knows.

    Attributes:
        architecture: its class in transformers.
        has_pairs: whether a head's numbers that turn together lie beside each other, and not half a head apart.
        has_qkv_bias: whether the projections to queries, keys and values add a bias; None where the tensors tell.
        needs: keys of `SCALARS` that it can't do without.
        reads: further ones that it may have, and what holds where they are missing; 0 for what `Variant` has.
        full_every: of its layers, each so many-th sees everything, and the others a window; 0 for no window.
        local_theta: of the rotary embedding in layers with a window; 0 for that of the others.
        has_experts: whether its feed-forwards are experts, whose shares add up to 1; None where their number tells, and
            each is as wide as a feed-forward.
        wide_layers: of a model with so many, scores are scaled by the width that a head would have of the states.
    """

    architecture: str
    has_pairs: bool = False
    has_qkv_bias: bool | None = False
    needs: tuple[str, ...] = ()
    reads: Mapping[str, float] = field(default_factory=dict)
    full_every: int = 0
    local_theta: float = 0.0
    has_experts: bool | None = False
    wide_layers: int = 0

    @property
    def keys(self) -> set[str]:
        """Those that a file may have beside `READ`."""
        windows = ({WINDOW} if self.full_every else set()) | ({LOCAL_THETA} if self.local_theta else set())
        return {*self.needs, *self.reads, *windows, *([EXPERT_SIZE] if self.has_experts else [])}

    @property
    def is_gemma(self) -> bool:
        """Whether its embeddings are scaled, its gate is a GELU, and 1 was added to its norms when it was converted."""
        return FAMILIES[self.architecture].scales_embedding


GGUF_FAMILIES = {
    "llama": GgufFamily("LlamaForCausalLM", has_pairs=True, has_qkv_bias=None, has_experts=None),
    "qwen2": GgufFamily("Qwen2ForCausalLM", has_qkv_bias=True),
    "qwen3": GgufFamily("Qwen3ForCausalLM"),
    "qwen3moe": GgufFamily("Qwen3MoeForCausalLM", has_experts=True),
    "phi3": GgufFamily("Phi3ForCausalLM"),
    "gemma": GgufFamily("GemmaForCausalLM"),
    "gemma2": GgufFamily(
        "Gemma2ForCausalLM",
        reads={"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        full_every=2,
        wide_layers=46,
    ),
    "gemma3": GgufFamily("Gemma3ForCausalLM", full_every=6, local_theta=10_000.0, wide_layers=62),
    "olmo2": GgufFamily("Olmo2ForCausalLM"),
    "granite": GgufFamily(
        "GraniteForCausalLM",
        has_pairs=True,
        needs=("logit_scale",),
        reads={"embedding_scale": 0.0, "residual_scale": 0.0, "attention.scale": 0.0},
    ),
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a weight lies.

    Attributes:
        stored: its name.
        header: of the part that has it.
        tensor: in that part.
        bits: of a weight in memory; 0 where it is not an integer.
        num_heads_in_pairs: heads whose rows change places, from pairs to halves; 0 for none.
    """

    stored: str
    header: GgufHeader
    tensor: GgufTensor
    bits: int = 0
    num_heads_in_pairs: int = 0

    @property
    def num_bytes(self) -> int:
        """In memory."""
        count = self.tensor.num_elements
        return count * self.bits // 8 + count // GROUP * 4 if self.bits else count * FLOATS[self.tensor.kind]


@dataclass(frozen=True, slots=True)
class GgufDecoder:
    """What the step in C makes of a file.

    Attributes:
        config: of the model.
        tensors: by their names in transformers, in the order of its modules.
        frequencies: what each frequency of the rotary embedding is divided by; None where the file has none.
    """

    config: DecoderConfig
    tensors: Mapping[str, StoredTensor]
    frequencies: StoredTensor | None

    @property
    def has_integers(self) -> bool:
        """Whether the matrices are integers."""
        return self.tensors[EMBEDDING].bits > 0

    @property
    def weights_bytes(self) -> int:
        """In memory, once they are packed."""
        return sum(each.num_bytes for each in self.tensors.values())


def gguf_decoder(file: GgufFile) -> GgufDecoder | None:
    """How the step in C computes a file's model; None where llama.cpp has to."""
    family = GGUF_FAMILIES.get(file.architecture)
    if family is None:
        return None
    try:
        config = _config(file, family)
        found = {name: (header, tensor) for header in file.headers for name, tensor in header.tensors.items()}
        frequencies = found.pop(FREQUENCIES, None)
        tensors = dict(_tensors(config, family, found))
        if frequencies is not None:
            require(frequencies[1].kind == "F32" and frequencies[1].shape == (config.head_dim // 2,))
    except (UnknownValueError, KeyError):
        return None
    decoder = GgufDecoder(config, tensors, StoredTensor(FREQUENCIES, *frequencies) if frequencies else None)
    allowed = max(file.weights_bytes + FREE_GROWTH_BYTES, int(file.weights_bytes * MAX_GROWTH))
    return decoder if decoder.weights_bytes <= allowed else None


def _config(file: GgufFile, family: GgufFamily) -> DecoderConfig:
    prefix = f"{file.architecture}."
    values = {key.removeprefix(prefix): value for key, value in file.header.metadata.items() if key.startswith(prefix)}
    if values.get(WINDOW) == 0:
        del values[WINDOW]  # of files that say that there is none
    require(set(values) <= READ | family.keys and set(family.needs) <= set(values))
    hidden, layers, heads = (
        size(values.get(name)) for name in ("embedding_length", "block_count", "attention.head_count")
    )
    kv_heads = size(values.get("attention.head_count_kv", heads))
    head_dim = size(values.get("attention.key_length", hidden // heads))
    require(values.get("attention.value_length", head_dim) == values.get("rope.dimension_count", head_dim) == head_dim)
    inner = size(values.get("feed_forward_length"))
    require(heads % kv_heads == 0 and all(each % 2 == 0 for each in (hidden, head_dim, inner)))
    names = {name for header in file.headers for name in header.tensors}
    described = FAMILIES[family.architecture]
    is_local = [bool(family.full_every) and (index + 1) % family.full_every != 0 for index in range(layers)]
    window = size(values.get(WINDOW)) if family.full_every else 0
    ropes = [_rope(values)]
    if family.local_theta:
        ropes.append(Rope("default", positive(values.get(LOCAL_THETA, family.local_theta))))
    has_qkv_bias = "blk.0.attn_q.bias" in names if family.has_qkv_bias is None else family.has_qkv_bias
    variant = replace(
        _variant(family, values),
        has_output_bias="blk.0.attn_output.bias" in names,
        has_feed_forward_bias="blk.0.ffn_up.bias" in names,
        rotations=tuple(int(each) for each in is_local) if family.local_theta else (),
        experts=_experts(family, values),
    )
    return DecoderConfig(
        architecture=family.architecture,
        vocab_size=size(file.vocab_size),
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=size(values.get("context_length")),
        rms_norm_eps=positive(values.get("attention.layer_norm_rms_epsilon")),
        tie_word_embeddings=STORED[HEAD] not in names,
        has_qkv_bias=has_qkv_bias,
        has_qk_norm=described.has_qk_norm,
        windows=tuple(window if each else 0 for each in is_local),
        ropes=tuple(ropes),
        eos_token_id=None,
        dtype=None,
        variant=variant,
    )


def _variant(family: GgufFamily, values: Mapping[str, Any]) -> Variant:
    """What numbers of a file come to."""
    given = {**dict.fromkeys(family.needs), **family.reads}
    found = {key: values.get(key, default) for key, default in given.items()}
    scalars: dict[str, Any] = {
        SCALARS[key][0]: SCALARS[key][1](positive(value)) for key, value in found.items() if value != 0
    }
    hidden, heads = values["embedding_length"], values["attention.head_count"]
    if values["block_count"] == family.wide_layers:
        scalars["attention_scale"] = (hidden // heads) ** -0.5
    variant = replace(FAMILIES[family.architecture].built, **scalars)
    if family.is_gemma:
        return replace(variant, norm_offset=0.0, activation="gelu_tanh", embedding_scale=hidden**0.5)
    return variant


def _experts(family: GgufFamily, values: Mapping[str, Any]) -> Experts | None:
    counts = [values.get(name, 0) for name in ("expert_count", "expert_used_count")]
    if not family.has_experts and counts == [0, 0]:
        return None
    require(family.has_experts is not False)
    width = values.get(EXPERT_SIZE if family.has_experts else "feed_forward_length")
    num_experts, per_token, inner = (size(each) for each in (*counts, width))
    require(per_token <= num_experts and inner % 2 == 0)
    return Experts(num_experts, per_token, inner, True, 0, (True,) * values["block_count"])


def _rope(values: Mapping[str, Any]) -> Rope:
    theta = positive(values.get("rope.freq_base", 10_000.0))
    kind = values.get("rope.scaling.type", "none")
    if kind == "linear":
        return Rope("linear", theta, factor=positive(values.get("rope.scaling.factor")))
    require(kind == "none" and values.get("rope.scaling.factor", 1.0) == 1.0)
    return Rope("default", theta)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a weight has to be.

    Attributes:
        stored: name of the tensor.
        shape: of the weight.
        num_heads_in_pairs: see `StoredTensor`.
        expert: which of a tensor's matrices it is; None where it is the tensor.
        together: tensors of the matrices that it is packed with, itself included; empty for what is not a matrix.
    """

    stored: str
    shape: tuple[int, ...]
    num_heads_in_pairs: int = 0
    expert: int | None = None
    together: tuple[str, ...] = ()


def _tensors(
    config: DecoderConfig, family: GgufFamily, found: Mapping[str, tuple[GgufHeader, GgufTensor]]
) -> Iterator[tuple[str, StoredTensor]]:
    """Each weight by its name in transformers; those of a product have the same bits."""
    places = _places(config, family)
    num_experts = config.variant.experts.num_experts if config.variant.experts else 0
    for place in places.values():
        many = () if place.expert is None else (num_experts,)
        require(found[place.stored][1].shape == (*many, *place.shape))
        require(bool(place.together) or found[place.stored][1].kind == "F32")
    require(found.keys() == {place.stored for place in places.values()})
    kinds = {found[each][1].kind for place in places.values() for each in place.together}
    is_float = len(kinds) == 1 and kinds <= FLOATS.keys()
    require(is_float or kinds <= BITS.keys())
    for name, place in places.items():
        header, tensor = found[place.stored]
        if place.expert is not None:
            size_bytes = tensor.size_bytes // num_experts
            offset = tensor.offset + place.expert * size_bytes
            tensor = GgufTensor(place.shape, tensor.kind, offset, size_bytes)
        bits = max((BITS.get(found[each][1].kind, 0) for each in place.together), default=0)
        yield name, StoredTensor(place.stored, header, tensor, bits, place.num_heads_in_pairs)


def _places(config: DecoderConfig, family: GgufFamily) -> dict[str, _Place]:
    """By the names that transformers has, in the order of its modules."""
    places: dict[str, _Place] = {}
    embedding = (config.vocab_size, config.hidden_size)
    places[EMBEDDING] = _Place(STORED[EMBEDDING], embedding, together=(STORED[EMBEDDING],))
    for index in range(config.num_hidden_layers):
        for name, shape in layer_shapes(config, index).items():
            places[f"model.layers.{index}.{name}"] = _place_in_layer(config, family, index, name, shape)
    places[NORM] = _Place(STORED[NORM], (config.hidden_size,))
    if not config.tie_word_embeddings:
        places[HEAD] = _Place(STORED[HEAD], embedding, together=(STORED[HEAD],))
    return places


def _place_in_layer(config: DecoderConfig, family: GgufFamily, index: int, name: str, shape: tuple[int, ...]) -> _Place:
    part, suffix = name.rsplit(".", 1)
    if match := EXPERT.fullmatch(part):
        together = next(parts for parts in EXPERT_PRODUCTS if match["part"] in parts)
        stored = {each: f"blk.{index}.{STORED_EXPERTS[each]}.{suffix}" for each in together}
        return _Place(stored[match["part"]], shape, expert=int(match["expert"]), together=tuple(stored.values()))
    norms = [getattr(config.variant.norms, place.name) for place in fields(config.variant.norms)]
    names = STORED_PARTS | dict(zip(norms, STORED_NORMS, strict=True))
    packed = next((parts for parts in config.variant.products if part in parts), ()) if len(shape) == 2 else ()
    heads = dict(zip(TURNED, (config.num_attention_heads, config.num_key_value_heads), strict=True))
    return _Place(
        f"blk.{index}.{names[part]}.{suffix}",
        shape,
        num_heads_in_pairs=heads.get(part, 0) if family.has_pairs else 0,
        together=tuple(f"blk.{index}.{names[each]}.{suffix}" for each in packed),
    )
