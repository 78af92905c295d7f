"""Runs a GGUF file through llama.cpp, in this process or in one of its own. Knows nothing of text or requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from llmapi_kit.runners.base import StepItem


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

    def add_adapter(self, adapter: int, weights: str) -> None:
        """See `AdapterRunner.add_adapter`; the weights are a GGUF file."""
        ...

    def remove_adapter(self, adapter: int) -> None:
        """See `AdapterRunner.remove_adapter`."""
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

    def add_adapter(self, adapter: int, weights: str) -> None:
        """See `AdapterRunner.add_adapter`; the weights are a GGUF file. It takes a call of each step for itself."""
        self._steps.add_adapter(adapter, weights)

    def remove_adapter(self, adapter: int) -> None:
        """See `AdapterRunner.remove_adapter`."""
        self._steps.remove_adapter(adapter)

    def close(self) -> None:
        """See `Runner.close`."""
        self._steps.close()
