"""Quantises a GGUF file of floats as llama.cpp's own program does, with llama.cpp's own arithmetic.

The package gguf can't write K-quants; libllama can. Which tensor gets which format follows llama.cpp for dense models.

Source: https://github.com/ggml-org/llama.cpp/blob/master/src/llama-quant.cpp
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from llmapi_kit.runners.libllama import load_libllama

Kind = gguf.GGMLQuantizationType
# Of a mixture: the format of most matrices, and that of those that matter more
MIXTURES = {"Q3_K_M": ("Q3_K", "Q5_K"), "Q4_K_M": ("Q4_K", "Q6_K"), "Q5_K_M": ("Q5_K", "Q6_K")}
# For rows that are no multiple of a format's block
FALLBACKS = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL"}
LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.weight")


def quantize_gguf(source: Path, target: Path, kind: str) -> Path:
    """Write a file anew in another number format; vectors stay as they are.

    Args:
        source: a model in float32 or float16, in one file.
        target: the new file.
        kind: one of `MIXTURES`, or a format for all matrices, such as ``Q4_K``.

    Returns:
        `target`.
    """
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    num_layers = 1 + max((int(found[1]) for each in reader.tensors if (found := LAYER.match(each.name))), default=0)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            is_list = field.types[0] == gguf.GGUFValueType.ARRAY
            writer.add_key_value(name, field.contents(), field.types[0], field.types[-1] if is_list else None)
    has_output = any(tensor.name == "output.weight" for tensor in reader.tensors)
    for tensor in reader.tensors:
        values = np.ascontiguousarray(tensor.data, np.float32)
        if values.ndim < 2:
            writer.add_tensor(tensor.name, values)
            continue
        form = Kind[_format(tensor.name, values.shape[-1], kind, num_layers, has_output=has_output)]
        writer.add_tensor(tensor.name, quantize_rows(values, form), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _format(name: str, width: int, kind: str, num_layers: int, *, has_output: bool) -> str:
    """The format of a matrix with rows of some width."""
    usual, finer = MIXTURES.get(kind, (kind, kind))
    form = usual
    if kind in MIXTURES:
        if name == ("output.weight" if has_output else "token_embd.weight"):
            form = "Q6_K"
        elif (found := LAYER.match(name)) and found[2] in ("attn_v", "ffn_down"):
            form = finer if _matters_more(int(found[1]), num_layers) else usual
    choices = (form, FALLBACKS.get(form, form), "F16")
    return next(each for each in choices if width % gguf.GGML_QUANT_SIZES[Kind[each]][0] == 0)


def _matters_more(layer: int, num_layers: int) -> bool:
    eighth = num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2


def quantize_rows(values: np.ndarray[Any, Any], form: Kind) -> np.ndarray[Any, Any]:
    """Numbers (…, width) in a format, as bytes (…, bytes of a row); in `F16`, as numbers.

    Args:
        values: float32, in one piece.
        form: whose block the width is a multiple of.
    """
    if form is Kind.F16:
        return values.astype(np.float16)
    block, block_bytes = gguf.GGML_QUANT_SIZES[form]
    width = values.shape[-1]
    rows = values.reshape(-1, width)
    raw = np.empty((len(rows), width // block * block_bytes), np.uint8)
    quantize = load_libllama().ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    sizes, addresses = (ctypes.c_int64,) * 3, (ctypes.c_void_p,) * 2
    quantize.argtypes = (ctypes.c_int, *addresses, *sizes, ctypes.c_void_p)
    written = quantize(int(form), rows.ctypes.data, raw.ctypes.data, 0, len(rows), width, None)
    if written != raw.nbytes:
        raise ValueError(f"llama.cpp wrote {written} bytes of {form.name} in place of {raw.nbytes}.")
    return raw.reshape(*values.shape[:-1], -1)
