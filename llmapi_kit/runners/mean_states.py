"""Means of hidden states, for embeddings: one a slot, over the chunks that it was computed in.

Knows nothing of models or requests. Engine thread only.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn import functional

from llmapi_kit.runners.base import StepItem


class MeanStates:
    """What `Runner.mean_state` needs of a runner."""

    def __init__(self) -> None:
        self._sums: dict[int, dict[int, torch.Tensor]] = {}  # slot to first position to the sum of a chunk's states

    def add(self, pooled: Iterable[tuple[StepItem, int]], states: torch.Tensor) -> None:
        """Sum up hidden states, one sum a chunk, so that a repeated one replaces itself.

        Args:
            pooled: items with `wants_mean`, each with the row of its first token.
            states: (T, hidden).
        """
        for item, at in pooled:
            sums = self._sums.setdefault(item.slot, {})
            if item.start == 0:
                sums.clear()
            sums[item.start] = states[at : at + len(item.tokens)].float().sum(0)

    def mean(self, slot: int) -> list[float]:
        """See `Runner.mean_state`."""
        mean = torch.stack(list(self._sums[slot].values())).sum(0)
        vector: list[float] = functional.normalize(mean, dim=-1).tolist()
        return vector

    def free(self, slot: int) -> None:
        """The slot's sequence ended."""
        self._sums.pop(slot, None)

    def clear(self) -> None:
        """Let go of all."""
        self._sums.clear()
