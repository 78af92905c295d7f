"""Matrices of a model as `panels.h` wants them, each in memory once.

Knows linear modules, nothing of their order in a model.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from llmapi_kit.models.mapped_files import drop_pages

CACHE_LINE = 64


class PackedWeights:
    """Takes matrices over, one after the other, into large pages.

    What is read from a mapped file leaves memory as soon as it is packed, so loading takes hardly more than the packed
    weights.

    Args:
        library: of `load_library`.
        team: of `team_start`.
        groups: modules with a ``weight`` (outputs, inputs) of one type, those of a group with the same inputs. They
            lose their weights.

    Attributes:
        addresses: of each group's matrix, the outputs of its modules one after the other.
    """

    def __init__(self, library: ctypes.CDLL, team: int, groups: Sequence[Sequence[Any]]) -> None:
        self._library, self._team = library, team
        number = np.dtype(f"u{groups[0][0].weight.itemsize}")
        sizes = [self._size(group, CACHE_LINE // number.itemsize) for group in groups]
        self._memory = untouched((sum(sizes), 1), number)
        self.addresses: list[int] = []
        address = self._memory.ctypes.data
        for group, size in zip(groups, sizes, strict=True):
            self._pack(group, address)
            self.addresses.append(address)
            address += size * number.itemsize

    def _size(self, group: Sequence[Any], align: int) -> int:
        num_outputs = sum(len(module.weight) for module in group)
        return -(-int(self._library.packed_size(num_outputs, group[0].weight.shape[1])) // align) * align

    def _pack(self, group: Sequence[Any], address: int) -> None:
        first = 0
        for module in group:
            rows = module.weight.detach().contiguous()
            self._library.pack(self._team, rows.data_ptr(), *rows.shape, first, address)
            first += len(rows)
            module.weight.data = torch.empty(0, dtype=rows.dtype)
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
