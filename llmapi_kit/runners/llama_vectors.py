"""Vectors as a ``llama_batch``: what stands in a prompt for pictures, in place of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from llmapi_kit.runners import libllama
from llmapi_kit.runners.image_chunk import VectorItem


class VectorBatch:
    """The arrays behind a batch.

    Args:
        items: that go together, all with plain positions or all with several dimensions.

    Attributes:
        batch: valid as long as this.
        num_outputs: rows of logits that come of it.
    """

    def __init__(self, items: Sequence[VectorItem]) -> None:
        self._vectors = np.ascontiguousarray(np.concatenate([item.vectors for item in items]), np.float32)
        size = len(self._vectors)
        self._positions = np.ascontiguousarray(np.concatenate([_positions(item) for item in items], axis=-1), np.int32)
        self._slots = np.repeat([item.slot for item in items], [len(item.vectors) for item in items]).astype(np.int32)
        self._slot_addresses = self._slots.ctypes.data + 4 * np.arange(size, dtype=np.uint64)
        self._counts = np.ones(size, np.int32)  # of slots that a vector belongs to
        self._outputs = np.zeros(size, np.int8)
        ends = np.cumsum([len(item.vectors) for item in items]) - 1
        self._outputs[ends] = [item.wants_logits for item in items]
        self.num_outputs = int(self._outputs.sum())
        arrays = (self._vectors, self._positions, self._counts, self._slot_addresses, self._outputs)
        self.batch = libllama.Batch(size, None, *(array.ctypes.data for array in arrays))


def batches_of(items: Sequence[VectorItem], size: int) -> Iterator[list[VectorItem]]:
    """What goes into one call each: as much as fits, of one adapter; one whose vectors see each other goes alone."""
    together: list[VectorItem] = []
    room = size
    for item in items:
        if not item.is_causal:
            yield [item]
            continue
        for part in _cut(item, size):
            if len(part.vectors) > room or (together and together[0].adapter != part.adapter):
                yield together
                together, room = [], size
            together.append(part)
            room -= len(part.vectors)
    if together:
        yield together


def _cut(item: VectorItem, size: int) -> Iterator[VectorItem]:
    """An item in parts of at most so many vectors."""
    count = len(item.vectors)
    for begin in range(0, count, size):
        end = min(count, begin + size)
        yield replace(
            item,
            start=item.start if item.positions is not None else item.start + begin,
            vectors=item.vectors[begin:end],
            positions=item.positions[:, begin:end] if item.positions is not None else None,
            wants_logits=item.wants_logits and end == count,
        )


def _positions(item: VectorItem) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """Positions (n,) or (4, n), as the library wants them."""
    if item.positions is not None:
        return item.positions
    return np.arange(item.start, item.start + len(item.vectors), dtype=np.int32)
