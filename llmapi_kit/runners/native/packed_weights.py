"""Matrices of a model as `panels.h` wants them, each in memory once.

Knows names and shapes of matrices, nothing of their order in a model.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from llmapi_kit.checkpoints.decoder_weights import DecoderWeights
from llmapi_kit.checkpoints.mapped_files import drop_pages

CACHE_LINE = 64


class PackedWeights:
    """Takes matrices over, one after the other, into large pages.

    What is read from a mapped file leaves memory as soon as it is packed, so loading takes hardly more than the packed
    weights.

    Args:
        library: of `load_library`.
        team: of `team_start`.
        weights: of the model.
        groups: names of matrices (outputs, inputs), those of a group with the same inputs.

    Attributes:
        addresses: of each group's matrix, the outputs of its parts one after the other.
    """

    def __init__(
        self, library: ctypes.CDLL, team: int, weights: DecoderWeights, groups: Sequence[Sequence[str]]
    ) -> None:
        self._library, self._team = library, team
        number = np.dtype(f"u{weights.dtype.itemsize}")
        align = CACHE_LINE // number.itemsize
        sizes = [self._size([weights.tensors[name].shape for name in group], align) for group in groups]
        self._memory = untouched((sum(sizes), 1), number)
        self.addresses: list[int] = []
        address = self._memory.ctypes.data
        for group, size in zip(groups, sizes, strict=True):
            self._pack(weights, group, address)
            self.addresses.append(address)
            address += size * number.itemsize

    def _size(self, shapes: Sequence[torch.Size], align: int) -> int:
        num_outputs = sum(shape[0] for shape in shapes)
        return -(-int(self._library.packed_size(num_outputs, shapes[0][1])) // align) * align

    def _pack(self, weights: DecoderWeights, group: Sequence[str], address: int) -> None:
        first = 0
        for name in group:
            rows = weights.take(name).contiguous()
            self._library.pack(self._team, rows.data_ptr(), *rows.shape, first, address)
            first += len(rows)
            drop_pages(rows)


def untouched(shape: tuple[int, int], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Zeros that take memory once they are written to, in large pages where the system has them.

    With small pages a step spends a part of its time on finding them: a seventh of attention over 1,600 positions.
    """
    count = shape[0] * shape[1]
    num_bytes = max(1, count * dtype.itemsize)
    # Shared memory, which is Python's default, gets no large pages
    flags = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
    pages = mmap.mmap(-1, num_bytes, **flags)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype, count).reshape(shape)
