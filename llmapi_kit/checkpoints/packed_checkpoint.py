"""Checkpoints that come quantized: what their configuration says, and their matrices as the step in C takes them.

Understood are GPTQ and AWQ with 4 bits, GPTQ with 8, integers of compressed-tensors, MXFP4, whose values are whole
numbers of half its scale, and FP8 in blocks, which is widened. Their values, zeros and scales are kept as they are, so
nothing is rounded twice. What is not understood is for transformers and the package that it needs, or refused by name.
Knows tensors' names and layouts, nothing of a step.

Source: https://github.com/AutoGPTQ/AutoGPTQ and https://github.com/casper-hansen/AutoAWQ for how values lie in words,
https://github.com/vllm-project/compressed-tensors for names and configuration; the OCP Microscaling Formats
specification for MXFP4.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from llmapi_kit.checkpoints.integer_weights import MIDDLE, IntegerMatrix, IntegerRows, joined
from llmapi_kit.checkpoints.mapped_files import drop_pages
from llmapi_kit.errors import UnsupportedModelError

GROUPS = (32, 64, 128)
WHOLE_ROW = 128  # the group where a row has one scale, which then stands several times
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # output of each nibble of a word, the lowest first
# What transformers needs for them
PACKAGES = {
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "compressed-tensors": "compressed_tensors",
    "bitsandbytes": "bitsandbytes",
    "quanto": "optimum.quanto",
    "torchao": "torchao",
    "hqq": "hqq",
}
ON_GPU_ONLY = {"bitsandbytes", "fp8", "fbgemm_fp8"}
MXFP4_TWICE = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # what each nibble means, times 2
# Two values for each byte: all at once, in a fifth of the time
MXFP4_PAIRS = (
    torch.tensor([(MXFP4_TWICE[byte & 0xF] + MIDDLE, MXFP4_TWICE[byte >> 4] + MIDDLE) for byte in range(256)])
    .to(torch.uint8)
    .view(torch.int16)
    .flatten()
)
MXFP4_GROUP = 32


@dataclass(frozen=True, slots=True)
class Packing:
    """How a checkpoint stores its matrices.

    Attributes:
        layout: ``gptq``, ``awq``, ``pack-quantized``, ``int-quantized``, ``mxfp4`` or ``fp8``.
        bits: of a value.
        group: inputs that share a scale; 0 for all of a row.
        first_zero: what a zero that is stored as 0 means.
    """

    layout: str
    bits: int
    group: int
    first_zero: int = 0

    @property
    def step_group(self) -> int:
        """Inputs that share a scale in a step."""
        return self.group or WHOLE_ROW


def packing_of(quantization: Any) -> Packing | None:
    """What a configuration's ``quantization_config`` says; None where it is not understood here."""
    if not isinstance(quantization, Mapping):
        return None
    method, bits, group = (quantization.get(name) for name in ("quant_method", "bits", "group_size"))
    packing = None
    if method in ("gptq", "awq") and group not in (-1, *GROUPS):
        return None
    if method == "gptq" and bits in (4, 8) and not quantization.get("desc_act"):
        is_first = quantization.get("checkpoint_format", "gptq") == "gptq"
        packing = Packing("gptq", bits, max(0, int(group or 0)), first_zero=int(is_first))
    elif method == "awq" and bits == 4 and str(quantization.get("version", "gemm")).lower() == "gemm":
        packing = Packing("awq", 4, max(0, int(group or 0)))
    elif method == "compressed-tensors":
        packing = _compressed(quantization)
    elif method == "mxfp4":
        packing = Packing("mxfp4", 8, MXFP4_GROUP)
    elif method == "fp8" and quantization.get("weight_block_size") == [128, 128]:
        return Packing("fp8", 8, 128)
    return packing if packing is not None and packing.group in (0, *GROUPS) else None


def _compressed(quantization: Mapping[str, Any]) -> Packing | None:
    layout, groups = quantization.get("format"), quantization.get("config_groups")
    if layout not in ("pack-quantized", "int-quantized") or not isinstance(groups, Mapping) or len(groups) != 1:
        return None
    weights = next(iter(groups.values())).get("weights") or {}
    is_known = weights.get("type") == "int" and weights.get("symmetric") and weights.get("num_bits") in (4, 8)
    if not is_known or weights.get("actorder") or (layout == "int-quantized" and weights["num_bits"] != 8):
        return None
    by_strategy = {"group": weights.get("group_size"), "channel": 0}
    group = by_strategy.get(weights.get("strategy", ""))
    return None if group is None else Packing(layout, weights["num_bits"], group)


def check_quantization(values: Mapping[str, Any], name: str, device: str) -> None:
    """Raise where a checkpoint that came quantized, and is not understood here, lacks what transformers loads it with.

    Args:
        values: of config.json.
        name: of the model, for messages.
        device: ``cpu`` or a CUDA device.

    Raises:
        UnsupportedModelError: the message names the format, and what to do.
    """
    quantization = values.get("quantization_config")
    if not isinstance(quantization, Mapping):
        return
    method = str(quantization.get("quant_method") or "bitsandbytes")
    advice = "Take the model's original weights, with quantize='int8' or 'int4'; or a GGUF file of it."
    if method in ON_GPU_ONLY and device == "cpu":
        raise UnsupportedModelError(f"{name} comes quantized by {method}, which is computed on a GPU only. {advice}")
    package = PACKAGES.get(method)
    if package is not None and not _is_installed(package):
        raise UnsupportedModelError(
            f"{name} comes quantized by {method}, in a form that is not read without the package {package}. Install "
            f"it: pip install {package.replace('_', '-').replace('.', '-')}. {advice}"
        )


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


class PackedMatrix(IntegerMatrix):
    """A matrix of a checkpoint, unpacked as its rows are asked for.

    Args:
        packing: how it is stored.
        parts: its tensors by the last part of their names.
        shape: (outputs, inputs).
    """

    def __init__(self, packing: Packing, parts: Mapping[str, torch.Tensor], shape: tuple[int, int]) -> None:
        super().__init__(torch.Size(shape), packing.bits, packing.step_group)
        self._packing, self._parts = packing, parts

    def rows(self, begin: int, end: int) -> IntegerRows:
        """See `IntegerMatrix.rows`."""
        layout = {
            "gptq": self._gptq,
            "awq": self._awq,
            "pack-quantized": self._packed,
            "int-quantized": self._bytes,
            "mxfp4": self._mxfp4,
        }
        values, scales, zeros = layout[self._packing.layout](begin, end)
        num_groups = -(-self.shape[1] // self.group)
        if scales.shape[1] == 1:
            scales, zeros = scales.expand(-1, num_groups), zeros.expand(-1, num_groups)
        return IntegerRows(values.to(torch.uint8).contiguous(), joined(scales.float(), zeros), self.group)

    def is_finite(self) -> bool:
        """See `IntegerMatrix.is_finite`."""
        return all(bool(torch.isfinite(part).all()) for name, part in self._parts.items() if "scale" in name)

    def release(self) -> None:
        """See `IntegerMatrix.release`."""
        for part in self._parts.values():
            drop_pages(part)

    def _gptq(self, begin: int, end: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        values = _unpacked(self._parts["qweight"][:, begin:end].t(), self._packing.bits)  # inputs lie along words
        zeros = _unpacked(self._parts["qzeros"], self._packing.bits)[:, begin:end].t() + self._packing.first_zero
        return values, self._parts["scales"][:, begin:end].t(), zeros

    def _awq(self, begin: int, end: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        first, last = begin // 8, -(-end // 8)
        columns = slice(begin - 8 * first, end - 8 * first)
        places = torch.tensor(AWQ_ORDER).argsort()

        def outputs(words: torch.Tensor) -> torch.Tensor:
            nibbles = _unpacked(words[:, first:last], 4).view(len(words), -1, 8)
            return nibbles[..., places].flatten(1)[:, columns].t()

        return outputs(self._parts["qweight"]), self._parts["scales"][:, begin:end].t(), outputs(self._parts["qzeros"])

    def _packed(self, begin: int, end: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        values = _unpacked(self._parts["weight_packed"][begin:end], self._packing.bits)[:, : self.shape[1]]
        return values, *self._symmetric(begin, end)

    def _bytes(self, begin: int, end: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self._parts["weight"][begin:end].int() + 128, *self._symmetric(begin, end)

    def _mxfp4(self, begin: int, end: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        blocks = self._parts["blocks"][begin:end]  # (rows, groups, 16), of each byte the lower half first
        values = MXFP4_PAIRS[blocks.flatten(1).int()].view(torch.uint8)
        scales = torch.exp2(self._parts["scales"][begin:end].float() - 128)  # 2 ** (scale - 127), of values times 2
        return values, scales, torch.full_like(scales, MIDDLE)

    def _symmetric(self, begin: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        scales = self._parts["weight_scale"][begin:end]
        return scales, torch.full_like(scales, 2 ** (self._packing.bits - 1))


def _unpacked(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Values of words (rows, n) of 32 bits, the lowest first: (rows, n * 32 / bits)."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    values: torch.Tensor = words[..., None] >> shifts & (2**bits - 1)
    return values.flatten(1)


# Of a matrix with so many outputs and inputs: name and shape of its tensors, by how many values a word holds
def _shapes(packing: Packing, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    width, groups = 32 // packing.bits, -(-inputs // packing.group) if packing.group else 1
    if packing.layout == "gptq":
        words = {"qweight": (inputs // width, outputs), "qzeros": (groups, outputs // width)}
        return {**words, "scales": (groups, outputs)}
    if packing.layout == "awq":
        words = {"qweight": (inputs, outputs // width), "qzeros": (groups, outputs // width)}
        return {**words, "scales": (groups, outputs)}
    if packing.layout == "pack-quantized":
        return {"weight_packed": (outputs, -(-inputs // width)), "weight_scale": (outputs, groups)}
    if packing.layout == "mxfp4":
        return {"blocks": (outputs, groups, MXFP4_GROUP // 2), "scales": (outputs, groups)}
    return {"weight": (outputs, inputs), "weight_scale": (outputs, groups)}


def unpack(
    packing: Packing, tensors: dict[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, torch.Tensor | IntegerMatrix] | None:
    """Tensors of a checkpoint by the names of one that is not quantized; None where they do not fit the packing.

    Args:
        packing: how matrices are stored.
        tensors: as they lie in the files.
        shapes: of all tensors of the model.
    """
    rest, found = dict(tensors), dict[str, torch.Tensor | IntegerMatrix]()
    of_stem: dict[str, dict[str, str]] = {}
    for key in tensors:
        stem, _, part = key.rpartition(".")
        if part != "bias":
            of_stem.setdefault(stem, {})[part] = key
    for name, shape in shapes.items():
        parts = of_stem.get(name.removesuffix(".weight"), {})
        if packing.layout == "fp8" and "weight_scale_inv" in parts:
            found[name] = _widened(rest.pop(name), rest.pop(parts["weight_scale_inv"]))
        elif (wanted := _shapes(packing, *shape) if len(shape) == 2 else {}) and wanted.keys() <= parts.keys():
            given = {part: rest.pop(key) for part, key in parts.items()}
            if {part: tuple(given[part].shape) for part in wanted} != wanted or not _is_in_order(given, packing):
                return None
            found[name] = PackedMatrix(packing, {part: given[part] for part in wanted}, (shape[0], shape[1]))
        elif name in rest:
            found[name] = rest.pop(name)
    return None if rest else found


def _is_in_order(parts: Mapping[str, torch.Tensor], packing: Packing) -> bool:
    """Whether inputs belong to groups as they follow each other, and zeros are where they are looked for."""
    index = parts.get("g_idx")
    if index is not None and packing.group and not torch.equal(index.long(), torch.arange(len(index)) // packing.group):
        return False
    return "weight_zero_point" not in parts


def _widened(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """FP8 times the scales of its blocks of 128 by 128, in bfloat16."""
    wide: torch.Tensor = (
        scales.float().repeat_interleave(128, 0).repeat_interleave(128, 1)[: values.shape[0], : values.shape[1]]
    )
    widened: torch.Tensor = values.float() * wide
    return widened.bfloat16()
