"""The configuration of transformers that a GGUF file's metadata describes.

A parameter that is not known here is refused by name, and so is a rotary embedding scaled in another way: left out,
either would give answers that are a little wrong. Knows nothing of weights but their shapes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import transformers

from llmapi_kit.errors import ModelLoadError, UnsupportedModelError
from llmapi_kit.models.gguf_header import GgufHeader

# Parameters of an architecture that are read below, or that say nothing the tensors don't
KNOWN_PARAMETERS = {
    "attention.causal",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "expert_used_count",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "vocab_size",
}
# Llama 3's rotary scaling, but for its factor. Source: its published configurations
LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def make_config(header: GgufHeader, architecture: str) -> Any:
    """The configuration.

    Args:
        header: of the file.
        architecture: ``llama``, ``qwen2`` or ``qwen3``.

    Raises:
        ModelLoadError: a parameter is missing or makes no sense.
        UnsupportedModelError: one is not known here.
    """
    name, prefix = header.path.name, f"{architecture}."
    unknown = [key for key in header.metadata if key.startswith(prefix) and key[len(prefix) :] not in KNOWN_PARAMETERS]
    if unknown:
        raise UnsupportedModelError(f"{name} has the parameter {unknown[0][:80]!r}, which is not known here.")

    def whole(key: str, default: int | None = None) -> int:
        value = header.one(prefix + key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
            raise ModelLoadError(f"{name}: {prefix}{key} is {str(value)[:80]}; it must be a whole number above 0.")
        return value

    def real(key: str, default: float | None = None) -> float:
        value = header.one(prefix + key, default)
        if not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
            raise ModelLoadError(f"{name}: {prefix}{key} is {str(value)[:80]}; it must be a number above 0.")
        return float(value)

    if header.one(f"{prefix}attention.causal", True) is not True:
        raise UnsupportedModelError(f"{name} reads a text in both directions, so it can't write one.")
    if header.one(f"{prefix}expert_count"):
        raise UnsupportedModelError(f"{name} is a mixture of experts, which can't be loaded from GGUF.")
    heads, hidden = whole("attention.head_count"), whole("embedding_length")
    head_dim = whole("attention.key_length", hidden // heads or 1)
    if head_dim % 2 or not head_dim == whole("attention.value_length", head_dim) == whole(
        "rope.dimension_count", head_dim
    ):
        raise UnsupportedModelError(f"{name}: heads of {head_dim} whose values or rotation have another size.")
    if "token_embd.weight" not in header.tensors:
        raise ModelLoadError(f"{name} has no tensor token_embd.weight.")
    has_bias = "blk.0.attn_q.bias" in header.tensors
    given = {
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden,
        "intermediate_size": whole("feed_forward_length"),
        "num_hidden_layers": whole("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": whole("attention.head_count_kv", heads),
        "max_position_embeddings": whole("context_length"),
        "rms_norm_eps": real("attention.layer_norm_rms_epsilon"),
        "rope_parameters": _rope(header, prefix, real("rope.freq_base", 10000.0), head_dim),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if architecture == "qwen2":
        if head_dim * heads != hidden:
            raise UnsupportedModelError(f"{name}: heads of {head_dim} in a Qwen2 of width {hidden}.")
    else:
        given |= {"head_dim": head_dim, "attention_bias": has_bias}
    return transformers.AutoConfig.for_model(architecture, **given)


def _rope(header: GgufHeader, prefix: str, base: float, head_dim: int) -> dict[str, Any]:
    """How the rotary embedding is scaled."""
    name = header.path.name
    factor = header.one(f"{prefix}rope.scaling.factor", 1.0)
    # A factor alone is a linear one, as for llama.cpp
    kind = header.one(f"{prefix}rope.scaling.type", "none" if factor == 1 else "linear")
    if kind == "none" and "rope_freqs.weight" in header.tensors:
        return {"rope_theta": base, **_llama3_scaling(header, base, head_dim)}
    is_plain = "rope_freqs.weight" not in header.tensors
    if kind == "linear" and is_plain and isinstance(factor, float) and math.isfinite(factor) and factor > 0:
        return {"rope_type": "linear", "rope_theta": base, "factor": factor}
    if kind != "none":
        raise UnsupportedModelError(
            f"{name} scales its rotary embedding by {str(kind)[:80]!r}, which is not known here."
        )
    return {"rope_type": "default", "rope_theta": base}


def _llama3_scaling(header: GgufHeader, base: float, head_dim: int) -> dict[str, Any]:
    """Llama 3's scaling, found again from the divisors that the file has for each frequency."""
    name, place = header.path.name, header.tensors["rope_freqs.weight"]
    problem = UnsupportedModelError(f"{name}: the divisors in rope_freqs.weight are not those of Llama 3.")
    if place.kind != "F32" or place.shape != (head_dim // 2,):
        raise problem
    divisors = np.memmap(header.path, "<f4", "r", place.offset, place.shape).astype(np.float64)
    if np.allclose(divisors, 1):
        return {"rope_type": "default"}
    low, high, old = LLAMA3_ROPE.values()
    factor = round(float(divisors.max()), 4) if np.isfinite(divisors).all() else 0.0
    if factor < 1:
        raise problem
    wavelengths = 2 * math.pi * base ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = np.clip((old / wavelengths - low) / (high - low), 0, 1)
    if not np.allclose(divisors, 1 / ((1 - smooth) / factor + smooth), rtol=1e-3):
        raise problem
    return {"rope_type": "llama3", "factor": factor, **LLAMA3_ROPE}
