"""Matrices of a model as `panels.h` wants them, each in memory once.

Knows names and shapes of matrices, nothing of their order in a model.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

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


class PackedWeights:
    """Takes matrices over, one after the other, into large pages.

    What is read from a mapped file leaves memory as soon as it is packed, so loading takes hardly more than the packed
    weights.

    Args:
        library: of `load_library`.
        team: of `team_start`.
        weights: of the model.
        groups: names of matrices (outputs, inputs), those of a group with the same inputs.
        threads: that make integers of floats, where weights are integers.

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
            if isinstance(matrix, IntegerMatrix):
                self._pack_integers(matrix, first, packed)
            else:
                rows = matrix.contiguous()
                self._library.pack(self._team, 0, rows.data_ptr(), None, *rows.shape, first, packed.weights)
                drop_pages(matrix)
            first += matrix.shape[0]

    def _pack_integers(self, matrix: IntegerMatrix, first: int, packed: Matrix) -> None:
        """Pack some rows after the other, made by all threads."""
        num_rows, num_inputs = matrix.shape
        step = max(1, BLOCK // num_inputs)
        for at_once in range(0, num_rows, AT_ONCE * step):
            begins = range(at_once, min(at_once + AT_ONCE * step, num_rows), step)
            made = self._threads.map(lambda begin: matrix.rows(begin, min(begin + step, num_rows)), begins)
            for begin, rows in zip(begins, made, strict=True):
                at = (rows.values.data_ptr(), rows.scales.data_ptr())
                shape = (len(rows.values), num_inputs)
                self._library.pack(self._team, packed.bits, *at, *shape, first + begin, packed.weights)
        matrix.release()


def _bits(matrices: Sequence[torch.Tensor | IntegerMatrix]) -> int:
    """Of a weight of some that are packed together, where they are integers: as many as one of them needs."""
    return max(matrix.bits if isinstance(matrix, IntegerMatrix) else 0 for matrix in matrices)


def untouched(shape: tuple[int, int], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Zeros that take memory once they are written to; see `LazyMemory`."""
    count = shape[0] * shape[1]
    memory = LazyMemory(count * dtype.itemsize, has_large_pages=True)
    return np.frombuffer(memory.buffer, dtype, count).reshape(shape)
