"""GGUF files of Llama-like models as transformers models: configuration from the metadata, weights dequantised.

The weights are computed with in the type asked for, not in the file's blocks: a quantised file saves disk and download,
not memory or time. A file is taken only where everything in it is understood: another architecture, an unknown
parameter or tensor, a rotary scaling of another kind are refused by name rather than left out.

transformers can read such files too (`gguf_file=`), but leaves out what it does not know: rotary scaling, the head
size of Qwen3, missing tensors. So only its model classes are used here.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md for names; llama.cpp's converter turns halves of a
Llama's queries and keys into neighbouring pairs, which is undone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from llmapi_kit.errors import ModelLoadError, UnsupportedModelError
from llmapi_kit.models.fit import BYTES, Fit, check_sizes, kv_bytes_per_token
from llmapi_kit.models.gguf_config import make_config
from llmapi_kit.models.gguf_header import GgufHeader, read_header

MODEL_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
# Tokens that end a turn, under the names that chat models give them; files often tell one of several
END_TOKENS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>", "<|end|>", "</s>")
CONTROL = 3
# What its makers recommend: the name of a sampling parameter in the file
SAMPLING_KEYS = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}
FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class GgufModel:
    """A file, understood but not loaded.

    Attributes:
        header: what the file says.
        config: of the transformers model it becomes.
        weights: a tensor's name in the file to its name in the model.
        eos_ids: tokens that end an answer.
    """

    header: GgufHeader
    config: Any
    weights: Mapping[str, str]
    eos_ids: tuple[int, ...]

    @property
    def sampling_defaults(self) -> dict[str, float]:
        """What its makers recommend, such as `temperature`."""
        found = {name: self.header.metadata.get(f"general.sampling.{key}") for name, key in SAMPLING_KEYS.items()}
        return {name: value for name, value in found.items() if isinstance(value, int | float) and math.isfinite(value)}

    @property
    def stored_dtype(self) -> str:
        """The type that matrices have in the file; bfloat16 where they are quantised."""
        kinds = {self.header.tensors[name].kind for name in self.weights if len(self.header.tensors[name].shape) > 1}
        return FLOATS[kinds.pop()] if len(kinds) == 1 and kinds <= set(FLOATS) else "bfloat16"

    @property
    def num_parameters(self) -> int:
        """Numbers in all weights."""
        return sum(self.header.tensors[name].num_elements for name in self.weights)

    @property
    def largest_tensor(self) -> int:
        """Numbers in the largest weight, which stands in memory in float32 while it is read."""
        return max(self.header.tensors[name].num_elements for name in self.weights)


def open_gguf(path: Path) -> GgufModel:
    """Read a file's head and understand it.

    Raises:
        ModelLoadError: it is damaged.
        UnsupportedModelError: it is a model that can't be loaded; the message says why.
        MissingDependencyError: the package gguf is not installed.
    """
    header = read_header(path)
    name = path.name
    if header.one("split.count", 1) != 1:
        raise UnsupportedModelError(f"{name} is one of several parts. Join them: llama-gguf-split --merge.")
    architecture = header.one("general.architecture")
    if architecture not in MODEL_CLASSES:
        hint = " It is the image part of a model, and images are not supported yet." if architecture == "clip" else ""
        raise UnsupportedModelError(
            f"{name} is of the architecture {str(architecture)[:80]!r}; {', '.join(MODEL_CLASSES)} can be loaded from "
            f"GGUF.{hint}"
        )
    config = make_config(header, str(architecture))
    return GgufModel(header, config, _match(header, config), _eos_ids(header))


def check_gguf(model: GgufModel, device: str, dtype: str, *, num_rows: int = 0, added_bytes: int = 0) -> Fit:
    """What a file's model needs when its weights are dequantised, against what `device` has free.

    Args:
        model: from `open_gguf`.
        device: ``cpu`` or a CUDA device.
        dtype: that the weights become.
        num_rows: that its embedding is to have at least.
        added_bytes: of what is loaded beside, such as an adapter.
    """
    config = model.config
    num_added = max(0, num_rows - config.vocab_size) * (1 if config.tie_word_embeddings else 2) * config.hidden_size
    # A tensor stands in float32 beside its place while it is read
    weights = (model.num_parameters + num_added) * BYTES[dtype] + 4 * model.largest_tensor + added_bytes
    return check_sizes(weights, kv_bytes_per_token(config, dtype), config.max_position_embeddings, device)


def load_weights(model: GgufModel, dtype: torch.dtype) -> Any:
    """The model with its weights, on the CPU.

    Raises:
        ModelLoadError: the weights have values that are no finite numbers.
        UnsupportedModelError: they are in a number format that can't be read.
    """
    state = {name: _read(model, stored, dtype) for stored, name in model.weights.items()}
    cls = getattr(transformers, MODEL_CLASSES[model.config.model_type])
    return cls.from_pretrained(None, config=model.config, state_dict=state, dtype=dtype)


def _read(model: GgufModel, stored: str, dtype: torch.dtype) -> torch.Tensor:
    """One weight, dequantised."""
    from gguf import GGMLQuantizationType, dequantize

    place = model.header.tensors[stored]
    raw = np.memmap(model.header.path, np.uint8, "r", place.offset, (place.size_bytes,))
    if place.kind in ("F32", "F16"):
        values: Any = raw.view("<f4" if place.kind == "F32" else "<f2")
    else:
        try:
            values = dequantize(raw.reshape(*place.shape[:-1], -1), GGMLQuantizationType[place.kind])
        except NotImplementedError as exc:  # what gguf raises for a format that it knows and can't unpack
            raise UnsupportedModelError(
                f"{model.header.path.name}: weights in {place.kind} can't be read. Take a file in another format, "
                "such as Q8_0, Q6_K or Q4_K_M."
            ) from exc
    values = values.reshape(place.shape)
    heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}
    part = stored.split(".")[-2]
    if model.config.model_type == "llama" and part in heads:
        pairs = values.reshape(heads[part], -1, 2, *values.shape[1:])
        values = pairs.swapaxes(1, 2).reshape(values.shape)
    tensor = torch.tensor(np.ascontiguousarray(values), dtype=dtype)
    if not bool(torch.isfinite(tensor).all()):
        raise ModelLoadError(f"{model.header.path.name}: the tensor {stored} has values that are no finite numbers.")
    return tensor


def _match(header: GgufHeader, config: Any) -> dict[str, str]:
    """Each tensor's name in the model; all that the configuration asks for are there, and no others."""
    name, tensors = header.path.name, header.tensors
    if config.num_hidden_layers > len(tensors):  # before so many are listed
        raise ModelLoadError(f"{name} declares {config.num_hidden_layers:,} layers and has {len(tensors):,} tensors.")
    expected = _expected(config)
    for stored, (_, shape) in expected.items():
        if stored not in tensors:
            raise ModelLoadError(f"{name} has no tensor {stored}.")
        if tensors[stored].shape != shape:
            raise ModelLoadError(f"{name}: the tensor {stored} is {tensors[stored].shape}; it should be {shape}.")
    unknown = sorted(set(tensors) - set(expected) - {"rope_freqs.weight"})
    if unknown:
        raise UnsupportedModelError(f"{name} has the tensor {unknown[0]!r}, which is not known here.")
    return {stored: own for stored, (own, _) in expected.items()}


def _expected(config: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What a model of this configuration consists of: name in the file to name in the model and shape."""
    hidden, inner = config.hidden_size, config.intermediate_size
    size = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    queries, keys = config.num_attention_heads * size, config.num_key_value_heads * size
    parts: dict[str, tuple[str, tuple[int, ...]]] = {
        "attn_norm.weight": ("input_layernorm.weight", (hidden,)),
        "attn_q.weight": ("self_attn.q_proj.weight", (queries, hidden)),
        "attn_k.weight": ("self_attn.k_proj.weight", (keys, hidden)),
        "attn_v.weight": ("self_attn.v_proj.weight", (keys, hidden)),
        "attn_output.weight": ("self_attn.o_proj.weight", (hidden, queries)),
        "ffn_norm.weight": ("post_attention_layernorm.weight", (hidden,)),
        "ffn_gate.weight": ("mlp.gate_proj.weight", (inner, hidden)),
        "ffn_up.weight": ("mlp.up_proj.weight", (inner, hidden)),
        "ffn_down.weight": ("mlp.down_proj.weight", (hidden, inner)),
    }
    if config.model_type == "qwen3":
        parts |= {f"attn_{part}_norm.weight": (f"self_attn.{part}_norm.weight", (size,)) for part in "qk"}
    if config.model_type == "qwen2" or config.attention_bias:
        widths = {"q": queries, "k": keys, "v": keys}
        parts |= {f"attn_{part}.bias": (f"self_attn.{part}_proj.bias", (width,)) for part, width in widths.items()}
    if config.model_type != "qwen2" and config.attention_bias:
        parts["attn_output.bias"] = ("self_attn.o_proj.bias", (hidden,))
    expected = {
        "token_embd.weight": ("model.embed_tokens.weight", (config.vocab_size, hidden)),
        "output_norm.weight": ("model.norm.weight", (hidden,)),
    }
    if not config.tie_word_embeddings:
        expected["output.weight"] = ("lm_head.weight", (config.vocab_size, hidden))
    for layer in range(config.num_hidden_layers):
        expected |= {
            f"blk.{layer}.{stored}": (f"model.layers.{layer}.{own}", shape) for stored, (own, shape) in parts.items()
        }
    return expected


def _eos_ids(header: GgufHeader) -> tuple[int, ...]:
    """Tokens that end an answer: those the file names, and control tokens that are known to."""
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    kinds = header.metadata.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list):  # then it is no tokenizer either
        return ()
    named = [header.one(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom")]
    ids = {token_id for token_id in named if isinstance(token_id, int) and 0 <= token_id < len(tokens)}
    if isinstance(kinds, np.ndarray):
        pairs = zip(tokens, kinds.tolist(), strict=False)
        ids |= {i for i, (token, kind) in enumerate(pairs) if kind == CONTROL and token in END_TOKENS}
    return tuple(sorted(ids))
