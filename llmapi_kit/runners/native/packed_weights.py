"""Matrices of a model as `panels.h` wants them, each in memory once.

Knows names and shapes of matrices, nothing of their order in a model.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

import numpy as np
import torch

from llmapi_kit.checkpoints.decoder_weights import DecoderWeights
from llmapi_kit.checkpoints.integer_weights import IntegerMatrix
from llmapi_kit.checkpoints.mapped_files import drop_pages
from llmapi_kit.runners.lazy_memory import LazyMemory
from llmapi_kit.runners.native.structures import Matrix

CACHE_LINE = 64
AT_ONCE = 16  # blocks
BLOCK = 1 << 18  # weights that a thread makes integers of at once, which stay in its cache
_Rows = TypeVar("_Rows")


class PackedWeights:
    """Takes matrices over, one after the other, into large pages.

    What is read from a mapped file leaves memory as soon as it is packed, so loading takes hardly more than the packed
    weights.

    Args:
        library: of `load_library`.
        team: of `team_start`.
        weights: of the model.
        groups: names of matrices (outputs, inputs), those of a group with the same inputs.
        threads: that make rows as they are packed, where they do not lie so.

    Attributes:
        matrices: of each group, the outputs of its parts one after the other.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        team: int,
        weights: DecoderWeights,
        groups: Sequence[Sequence[str]],
        threads: Executor,
    ) -> None:
        self._library, self._team, self._threads = library, team, threads
        number = np.dtype("u4" if weights.integers else f"u{weights.dtype.itemsize}")
        align = CACHE_LINE // number.itemsize
        sizes = [self._size([weights.tensors[name] for name in group], align) for group in groups]
        self._memory = untouched((sum(sizes), 1), number)
        self.matrices: list[Matrix] = []
        address = self._memory.ctypes.data
        for group, size in zip(groups, sizes, strict=True):
            matrix = Matrix(address, _bits([weights.tensors[name] for name in group]))
            self._pack(weights, group, matrix)
            self.matrices.append(matrix)
            address += size * number.itemsize

    def _size(self, matrices: Sequence[torch.Tensor | IntegerMatrix], align: int) -> int:
        num_outputs = sum(matrix.shape[0] for matrix in matrices)
        size = self._library.packed_size(_bits(matrices), num_outputs, matrices[0].shape[1])
        return -(-int(size) // align) * align

    def _pack(self, weights: DecoderWeights, group: Sequence[str], packed: Matrix) -> None:
        first = 0
        for name in group:
            matrix = weights.tensors.pop(name)
            for begin, rows, scales in self._parts(matrix):
                at = (rows.data_ptr(), scales.data_ptr() if scales is not None else None)
                self._library.pack(self._team, packed.bits, *at, *rows.shape, first + begin, packed.weights)
            if isinstance(matrix, IntegerMatrix):
                matrix.release()
            else:
                drop_pages(matrix)
            first += matrix.shape[0]

    def _parts(self, matrix: torch.Tensor | IntegerMatrix) -> Iterator[tuple[int, torch.Tensor, torch.Tensor | None]]:
        """Rows of a matrix as they can be packed, with the number of the first, and the scales of integers."""
        if isinstance(matrix, IntegerMatrix):
            for begin, made in self._in_blocks(matrix.shape, matrix.rows):
                yield begin, made.values, made.scales
        elif matrix.is_contiguous():
            yield 0, matrix, None
        else:
            # Torch's own threads wait for each other by spinning: beside other programs that took half a minute
            for begin, rows in self._in_blocks(matrix.shape, lambda begin, end: matrix[begin:end].contiguous()):
                yield begin, rows, None

    def _in_blocks(self, shape: Sequence[int], make: Callable[[int, int], _Rows]) -> Iterator[tuple[int, _Rows]]:
        """Rows of a matrix, some after the other, made from where to where by all threads; and the first of each."""
        num_rows, num_inputs = shape
        step = max(1, BLOCK // num_inputs)
        for at_once in range(0, num_rows, AT_ONCE * step):
            begins = range(at_once, min(at_once + AT_ONCE * step, num_rows), step)
            made = self._threads.map(lambda begin: make(begin, min(begin + step, num_rows)), begins)
            yield from zip(begins, made, strict=True)


def _bits(matrices: Sequence[torch.Tensor | IntegerMatrix]) -> int:
    """Of a weight of some that are packed together, where they are integers: as many as one of them needs."""
    return max(matrix.bits if isinstance(matrix, IntegerMatrix) else 0 for matrix in matrices)


def untouched(shape: tuple[int, int], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Zeros that take memory once they are written to; see `LazyMemory`."""
    count = shape[0] * shape[1]
    memory = LazyMemory(count * dtype.itemsize, has_large_pages=True)
    return np.frombuffer(memory.buffer, dtype, count).reshape(shape)
