"""Runs a GGUF file through llama.cpp, in this process or in one of its own. Knows nothing of text or requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from llmapi_kit.runners.base import StepItem

SMALL_MODEL_BYTES = 100_000_000


class Steps(Protocol):
    """Who computes: `llama_steps.LlamaSteps`, or `llama_process.LlamaProcess`. See `Runner` for all of it."""

    num_slots: int
    max_length: int
    vocab_size: int
    can_rewind: bool

    def step(self, items: Sequence[StepItem]) -> npt.NDArray[np.float32]:
        """Logits (num_wanted, vocab_size), until the next step."""
        ...

    def restart(self) -> bool:
        """Make the next step work after one failed; whether all that slots held was lost with it."""
        ...

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See `Runner.copy_prefix`."""
        ...

    def free(self, slot: int) -> None:
        """See `Runner.free`."""
        ...

    def mean_state(self, slot: int) -> list[float]:
        """See `Runner.mean_state`."""
        ...

    def close(self) -> None:
        """See `Runner.close`."""
        ...


class LlamaCppRunner:
    """See `llmapi_kit.runners.base.Runner`.

    Args:
        steps: who computes; closed with the runner.

    Attributes:
        can_rewind: whether a slot can go back to a prefix of what it holds. Recurrent models can't, so that only whole
            slots can be reused.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.num_slots, self.max_length, self.vocab_size = steps.num_slots, steps.max_length, steps.vocab_size
        self.can_rewind = steps.can_rewind

    def start(self) -> None:
        """See `Runner.start`."""

    def step(self, items: Sequence[StepItem]) -> torch.Tensor:
        """See `Runner.step`."""
        return torch.from_numpy(self._steps.step(items))

    def recover(self, error: Exception) -> bool:
        """See `Runner.recover`. What a step wrote is removed by the next one."""
        return self._steps.restart()

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See `Runner.copy_prefix`."""
        self._steps.copy_prefix(source, target, length)

    def free(self, slot: int) -> None:
        """See `Runner.free`. KV memory is preallocated and stays as it is."""
        self._steps.free(slot)

    def mean_state(self, slot: int) -> list[float]:
        """See `Runner.mean_state`."""
        return self._steps.mean_state(slot)

    def close(self) -> None:
        """See `Runner.close`."""
        self._steps.close()


def best_num_threads(weights_bytes: int) -> int:
    """One thread for a small model, all that torch would take for others.

    The library's threads wait for each other by spinning, which takes the core from whoever else wants it: on two busy
    cores, a 4 M parameter model made 50 tokens a second with two threads and 900 with one.
    """
    return 1 if weights_bytes < SMALL_MODEL_BYTES else torch.get_num_threads()
