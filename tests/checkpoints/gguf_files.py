"""GGUF files for tests: good ones written with the gguf package, and hostile ones built byte by byte."""

from __future__ import annotations

import struct

import gguf
import numpy as np
import torch

from benchmarks.gguf_file import interleave_halves
from benchmarks.quantize_gguf import quantize_rows

ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}
KINDS = {kind: gguf.GGMLQuantizationType[kind] for kind in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1")}


def stored_names(model):
    """Each weight of a transformers model with the name that the gguf package has for it."""
    names = gguf.get_tensor_name_map(ARCHITECTURES[model.config.model_type], model.config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        yield names.get_name(name, try_suffixes=(".weight", ".bias")), name, tensor


def write_model(path, model, *, kind="F32", tokenizer=None, extra=None):
    """Write a model; `model` is left with the values that the file stores.

    Args:
        path: of the new file.
        model: a Llama, Qwen2 or Qwen3 of transformers, in float32.
        kind: format of the matrices; vectors are float32.
        tokenizer: called with the writer, adds a tokenizer.
        extra: called with the writer, adds or replaces metadata and tensors.
    """
    config = model.config
    architecture = config.model_type
    writer = gguf.GGUFWriter(path, architecture)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if architecture == "llama":
        writer.add_rope_dimension_count(head_dim)
    if head_dim * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if tokenizer is not None:
        tokenizer(writer)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for stored, name, tensor in stored_names(model):
        array = tensor.numpy()
        part = name.split(".")[-2]
        is_turned = architecture == "llama" and part in heads
        if is_turned:
            array = interleave_halves(array, heads[part])
        form = KINDS[kind] if array.ndim == 2 else KINDS["F32"]
        raw = quantize(np.ascontiguousarray(array), form)
        writer.add_tensor(stored, raw, raw_dtype=form)
        if form != KINDS["F32"]:
            values = gguf.dequantize(raw, form).reshape(array.shape).astype(np.float32)
            if is_turned:
                pairs = values.reshape(heads[part], -1, 2, array.shape[1])
                values = np.concatenate((pairs[:, :, 0], pairs[:, :, 1]), axis=1).reshape(array.shape)
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(values)))
    if extra is not None:
        extra(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def quantize(array, form):
    """An array in a number format, which the gguf package can write, or else llama.cpp."""
    try:
        return gguf.quantize(array, form)
    except NotImplementedError:  # the gguf package reads K-quants and does not write them; llama.cpp does
        return quantize_rows(array, form)


def text(value):
    """A text as GGUF has it."""
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key, kind, value):
    """A key and its value, packed already."""
    return text(key) + struct.pack("<I", kind) + value


def tensor(name, shape=(32,), kind=0, offset=0, num_dimensions=None):
    """An entry of the table of tensors."""
    count = len(shape) if num_dimensions is None else num_dimensions
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", count, *shape, kind, offset)


def raw_file(*, pairs=(), tensors=(), num_pairs=None, num_tensors=None, version=3, magic=b"GGUF", body=256):
    """The bytes of a file that says what it is told to say."""
    head = struct.pack(
        "<4sIQQ",
        magic,
        version,
        len(tensors) if num_tensors is None else num_tensors,
        len(pairs) if num_pairs is None else num_pairs,
    )
    head += b"".join(pairs) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + b"\0" * body
