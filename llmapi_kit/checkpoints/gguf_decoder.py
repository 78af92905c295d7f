"""A GGUF file's model as the step in C computes it: its configuration, and where each of its weights lies in the file.

llama.cpp runs whatever a GGUF file has; the step in C is several times sooner where it knows the architecture and the
number formats, on a CPU. As in `decoder_config`, any key, tensor or format whose meaning is not known gives None, and
the file is llama.cpp's. Reads no weights. Free of torch.

Source: https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py for names of keys and tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from llmapi_kit.checkpoints.config_fields import UnknownValueError, positive, require, size
from llmapi_kit.checkpoints.decoder_config import DecoderConfig
from llmapi_kit.checkpoints.decoder_families import FAMILIES, Variant, layer_shapes
from llmapi_kit.checkpoints.gguf_file import GgufFile
from llmapi_kit.checkpoints.gguf_header import GgufHeader, GgufTensor
from llmapi_kit.checkpoints.rope import Rope

# Bits of a weight in memory, by its number format in the file; of Q6_K, weights are rounded once more
BITS = {"Q4_0": 4, "Q4_1": 4, "Q4_K": 4, "Q5_0": 8, "Q5_1": 8, "Q5_K": 8, "Q6_K": 8, "Q8_0": 8}
GROUP = 32  # inputs that share a scale and a minimum, which take 2 bytes each
FLOATS = {"F32": 4, "F16": 2, "BF16": 2}
# Of the file's size: more than that is not taken for speed
MAX_GROWTH, FREE_GROWTH_BYTES = 1.25, 256 * 2**20

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
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
}
# Of the norms of a layer, by their places in `Norms`
STORED_NORMS = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
READ = {
    *("context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"),
    *("attention.layer_norm_rms_epsilon", "attention.causal", "rope.freq_base", "rope.dimension_count"),
    *("rope.scaling.type", "rope.scaling.factor", "expert_count", "expert_used_count"),
}
WINDOW, LOCAL_THETA = "attention.sliding_window", "rope.freq_base_swa"
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
        wide_layers: of a model with so many, scores are scaled by the width that a head would have of the states.
    """

    architecture: str
    has_pairs: bool = False
    has_qkv_bias: bool | None = False
    needs: tuple[str, ...] = ()
    reads: Mapping[str, float] = field(default_factory=dict)
    full_every: int = 0
    local_theta: float = 0.0
    wide_layers: int = 0

    @property
    def keys(self) -> set[str]:
        """Those that a file may have beside `READ`."""
        windows = ({WINDOW} if self.full_every else set()) | ({LOCAL_THETA} if self.local_theta else set())
        return {*self.needs, *self.reads, *windows}

    @property
    def is_gemma(self) -> bool:
        """Whether its embeddings are scaled, its gate is a GELU, and 1 was added to its norms when it was converted."""
        return FAMILIES[self.architecture].scales_embedding


GGUF_FAMILIES = {
    "llama": GgufFamily("LlamaForCausalLM", has_pairs=True, has_qkv_bias=None),
    "qwen2": GgufFamily("Qwen2ForCausalLM", has_qkv_bias=True),
    "qwen3": GgufFamily("Qwen3ForCausalLM"),
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
        bits: of a weight in memory; 0 where it is no integer.
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
        require(len(tensors) == len(found))
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
    require(set(values) <= READ | family.keys and set(family.needs) <= set(values))
    require(not values.get("expert_count") and not values.get("expert_used_count"))
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


def _rope(values: Mapping[str, Any]) -> Rope:
    theta = positive(values.get("rope.freq_base", 10_000.0))
    kind = values.get("rope.scaling.type", "none")
    if kind == "linear":
        return Rope("linear", theta, factor=positive(values.get("rope.scaling.factor")))
    require(kind == "none" and values.get("rope.scaling.factor", 1.0) == 1.0)
    return Rope("default", theta)


def _tensors(
    config: DecoderConfig, family: GgufFamily, found: Mapping[str, tuple[GgufHeader, GgufTensor]]
) -> Iterator[tuple[str, StoredTensor]]:
    """Each weight by its name in transformers; those of a product have the same bits."""
    heads = dict(zip(TURNED, (config.num_attention_heads, config.num_key_value_heads), strict=True))
    norms = [getattr(config.variant.norms, place.name) for place in fields(config.variant.norms)]
    stored_parts = STORED_PARTS | dict(zip(norms, STORED_NORMS, strict=True))
    shapes: dict[str, tuple[str, tuple[int, ...], int]] = {}
    embedding = (config.vocab_size, config.hidden_size)
    shapes[EMBEDDING] = STORED[EMBEDDING], embedding, 0
    for index in range(config.num_hidden_layers):
        for name, shape in layer_shapes(config, index).items():
            part, suffix = name.rsplit(".", 1)
            turned = heads.get(part, 0) if family.has_pairs else 0
            shapes[f"model.layers.{index}.{name}"] = f"blk.{index}.{stored_parts[part]}.{suffix}", shape, turned
    shapes[NORM] = STORED[NORM], (config.hidden_size,), 0
    if not config.tie_word_embeddings:
        shapes[HEAD] = STORED[HEAD], embedding, 0
    require(all(found[stored][1].shape == shape for stored, shape, _ in shapes.values()))
    kinds = {found[stored][1].kind for stored, shape, _ in shapes.values() if len(shape) == 2}
    is_float = len(kinds) == 1 and kinds <= FLOATS.keys()
    require(is_float or kinds <= BITS.keys())
    for name, (stored, shape, turned) in shapes.items():
        header, tensor = found[stored]
        require(len(shape) == 2 or tensor.kind == "F32")
        bits = 0 if is_float or len(shape) == 1 else _bits(config, name, found)
        yield name, StoredTensor(stored, header, tensor, bits, turned)


def _bits(config: DecoderConfig, name: str, found: Mapping[str, tuple[GgufHeader, GgufTensor]]) -> int:
    """Of a matrix: as many as those that it is packed with, of a product, need; 8 in embedding and output layer."""
    if name in (EMBEDDING, HEAD):
        return 8
    _, _, index, part = name.removesuffix(".weight").split(".", 3)
    together = next(parts for parts in config.variant.products if part in parts)
    return max(BITS[found[f"blk.{index}.{STORED_PARTS[each]}.weight"][1].kind] for each in together)
