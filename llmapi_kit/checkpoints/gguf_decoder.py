"""A GGUF file's model as the step in C computes it: its configuration, and where each of its weights lies in the file.

llama.cpp runs whatever a GGUF file has; the step in C is several times sooner where it knows the architecture and the
number formats, on a CPU. As in `decoder_config`, any key, tensor or format whose meaning is not known gives None, and
the file is llama.cpp's. Reads no weights. Free of torch.

Source: https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py for names of keys and tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
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
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
READ = {
    *("context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"),
    *("attention.layer_norm_rms_epsilon", "attention.causal", "rope.freq_base", "rope.dimension_count"),
    *("rope.scaling.type", "rope.scaling.factor", "expert_count", "expert_used_count"),
}
TURNED = ("self_attn.q_proj", "self_attn.k_proj")


@dataclass(frozen=True, slots=True)
class GgufFamily:
    """An architecture of GGUF that the step in C knows.

    Attributes:
        architecture: its class in transformers.
        has_pairs: whether a head's numbers that turn together lie beside each other, and not half a head apart.
        has_qkv_bias: whether the projections to queries, keys and values add a bias; None where the tensors tell.
    """

    architecture: str
    has_pairs: bool = False
    has_qkv_bias: bool | None = False


GGUF_FAMILIES = {
    "llama": GgufFamily("LlamaForCausalLM", has_pairs=True, has_qkv_bias=None),
    "qwen2": GgufFamily("Qwen2ForCausalLM", has_qkv_bias=True),
    "qwen3": GgufFamily("Qwen3ForCausalLM"),
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
    require(set(values) <= READ)
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
    has_qkv_bias = "blk.0.attn_q.bias" in names if family.has_qkv_bias is None else family.has_qkv_bias
    variant: Variant = replace(
        described.built,
        has_output_bias="blk.0.attn_output.bias" in names,
        has_feed_forward_bias="blk.0.ffn_up.bias" in names,
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
        windows=(0,) * layers,
        ropes=(_rope(values),),
        eos_token_id=None,
        dtype=None,
        variant=variant,
    )


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
    shapes: dict[str, tuple[str, tuple[int, ...], int]] = {}
    embedding = (config.vocab_size, config.hidden_size)
    shapes[EMBEDDING] = STORED[EMBEDDING], embedding, 0
    for index in range(config.num_hidden_layers):
        for name, shape in layer_shapes(config, index).items():
            part, suffix = name.rsplit(".", 1)
            turned = heads.get(part, 0) if family.has_pairs else 0
            shapes[f"model.layers.{index}.{name}"] = f"blk.{index}.{STORED_PARTS[part]}.{suffix}", shape, turned
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
