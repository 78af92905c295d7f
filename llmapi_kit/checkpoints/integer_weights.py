"""Matrices whose weights are integers of 8 or 4 bits: ``scale * (value - zero)``, scale and zero shared by some inputs.

Rows are made when they are asked for, by rounding floats or from what a checkpoint packs into its tensors, so that no
more of a matrix than some rows stands unpacked in memory. Knows nothing of how a step multiplies with them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch.nn import functional

from llmapi_kit.checkpoints.mapped_files import drop_pages

# A scale is a float whose lowest bits are the zero: what is left has all that bfloat16 and half precision have
ZERO_BITS = 0xFF
MIDDLE = 128  # zero of 8 bits


@dataclass(frozen=True, slots=True)
class IntegerFormat:
    """How the matrices of layers are stored; embedding and output layer have 8 bits always.

    Attributes:
        bits: 8 or 4.
        group: inputs of an output that share scale and zero: 32, 64 or 128.
        has_minima: whether a weight is ``scale * value - minimum``, both in half precision, and matrices may have 8
            bits where others have 4.
    """

    bits: int
    group: int
    has_minima: bool = False

    @property
    def name(self) -> str:
        """As `quantize` says it."""
        return f"int{self.bits}"


# Of weights that are rounded here. What 4 bits lose depends on the group; for 8 it is lost in the noise
ROUNDED = {"int8": IntegerFormat(8, 64), "int4": IntegerFormat(4, 32)}


@dataclass(frozen=True, slots=True)
class IntegerRows:
    """Some rows of a matrix.

    Attributes:
        values: (rows, inputs), a byte each.
        scales: (rows, groups) of int32: floats whose lowest 8 bits are the zero; with minima, scale and minimum in
            half precision, the scale in the lower half.
        group: inputs that share one.
        has_minima: see `IntegerFormat`.
    """

    values: torch.Tensor
    scales: torch.Tensor
    group: int
    has_minima: bool = False

    def widened(self) -> torch.Tensor:
        """The weights in float32."""
        values = _grouped(self.values.float(), self.group)
        if self.has_minima:
            scales, minima = self.scales[..., None].view(torch.float16).float().unbind(-1)  # (rows, groups) each
            wide = values * scales[..., None] - minima[..., None]
        else:
            scales = (self.scales & ~ZERO_BITS).view(torch.float32)
            zeros = (self.scales & ZERO_BITS).float()
            wide = (values - zeros[..., None]) * scales[..., None]
        return wide.flatten(1)[:, : self.values.shape[1]]


class IntegerMatrix(ABC):
    """A matrix (outputs, inputs) of such weights.

    Args:
        shape: of it.
        bits: of a value.
        group: inputs that share a scale.
    """

    def __init__(self, shape: torch.Size, bits: int, group: int) -> None:
        self.shape = shape
        self.bits = bits
        self.group = group

    @abstractmethod
    def rows(self, begin: int, end: int) -> IntegerRows:
        """Rows from `begin` up to `end`."""

    @abstractmethod
    def is_finite(self) -> bool:
        """Whether all weights are numbers."""

    @abstractmethod
    def release(self) -> None:
        """Let go of what is mapped from files; used again, it is read in again."""

    def numel(self) -> int:
        """How many weights there are."""
        return self.shape.numel()

    @property
    def nbytes(self) -> int:
        """What they take, scales included."""
        return self.numel() * self.bits // 8 + self.numel() // self.group * 4


class RoundedMatrix(IntegerMatrix):
    """A matrix of floats, rounded as its rows are asked for.

    Args:
        weight: (outputs, inputs).
        bits: of a value.
        group: inputs that share a scale.
    """

    def __init__(self, weight: torch.Tensor, bits: int, group: int) -> None:
        super().__init__(weight.shape, bits, group)
        self._weight = weight

    def rows(self, begin: int, end: int) -> IntegerRows:
        """See `IntegerMatrix.rows`."""
        # Experts may lie the other way round, in which rounding took six times as long
        return round_rows(self._weight[begin:end].contiguous().float(), self.bits, self.group)

    def is_finite(self) -> bool:
        """See `IntegerMatrix.is_finite`."""
        return bool(torch.isfinite(self._weight).all())

    def release(self) -> None:
        """See `IntegerMatrix.release`."""
        drop_pages(self._weight)


def round_rows(rows: torch.Tensor, bits: int, group: int) -> IntegerRows:
    """Rows of floats to the nearest integers: 8 bits on both sides of 0, 4 bits from the smallest to the largest.

    Args:
        rows: (rows, inputs) in float32.
        bits: 8 or 4.
        group: inputs that share a scale.
    """
    grouped = _grouped(rows, group)  # (rows, groups, group)
    if bits == 8:
        scales = _storable(grouped.abs().amax(-1) / (MIDDLE - 1))
        zeros = torch.full_like(scales, MIDDLE)
    else:
        low, high = grouped.amin(-1).clamp_(max=0), grouped.amax(-1).clamp_(min=0)
        scales = _storable((high - low) / (2**bits - 1))
        zeros = (low / -scales).round_()
    values = (grouped / scales[..., None]).round_().add_(zeros[..., None]).clamp_(0, 2**bits - 1)
    values = values.to(torch.uint8).flatten(1)[:, : rows.shape[1]].contiguous()
    return IntegerRows(values, joined(scales, zeros), group)


def joined(scales: torch.Tensor, zeros: torch.Tensor) -> torch.Tensor:
    """Scales and zeros (rows, groups) as `IntegerRows` has them."""
    return (_storable(scales).view(torch.int32) | zeros.to(torch.int32)).contiguous()


def _storable(scales: torch.Tensor) -> torch.Tensor:
    """The nearest scales whose lowest bits are free; 1 for a group of zeros."""
    scales = torch.where(scales == 0, 1.0, scales.float())
    return ((scales.view(torch.int32) + (ZERO_BITS + 1) // 2) & ~ZERO_BITS).view(torch.float32)


def _grouped(rows: torch.Tensor, group: int) -> torch.Tensor:
    """Rows (rows, inputs) as (rows, groups, group), zeros at the end."""
    return functional.pad(rows, (0, -rows.shape[1] % group)).view(len(rows), -1, group)
