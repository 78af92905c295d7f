"""The first of several ranks: what is asked of it, all of them do, each with its part of the model.

The logits are whole on each rank, so what the first one computes is the answer. Engine thread only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmapi_kit.runners.base import Logits, Runner, StepItem
from llmapi_kit.runners.rank_processes import RankProcesses


class RankedRunner:
    """See `llmapi_kit.runners.base.Runner`.

    Args:
        runner: of this rank.
        ranks: the others, which have made theirs.

    Attributes:
        can_rewind: that of `runner`.
    """

    def __init__(self, runner: Runner, ranks: RankProcesses) -> None:
        self._runner = runner
        self._ranks = ranks
        self.num_slots = runner.num_slots
        self.max_length = runner.max_length
        self.vocab_size = runner.vocab_size
        self.can_rewind: bool = getattr(runner, "can_rewind", True)

    def start(self) -> None:
        """See `Runner.start`."""
        self._all("start")

    def step(self, items: Sequence[StepItem]) -> Logits:
        """See `Runner.step`. Where it fails, this process ends: the ranks would no longer hold the same."""
        logits: Logits = self._all("step", list(items))
        return logits

    def recover(self, error: Exception) -> None:
        """See `Runner.recover`; nobody comes here."""

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See `Runner.copy_prefix`."""
        self._all("copy_prefix", source, target, length)

    def free(self, slot: int) -> None:
        """See `Runner.free`."""
        self._all("free", slot)

    def mean_state(self, slot: int) -> list[float]:
        """See `Runner.mean_state`."""
        state: list[float] = self._all("mean_state", slot)
        return state

    def close(self) -> None:
        """See `Runner.close`: ends the other ranks."""
        self._ranks.close()
        self._runner.close()

    def _all(self, name: str, *arguments: Any) -> Any:
        self._ranks.tell(name, *arguments)
        try:
            return getattr(self._runner, name)(*arguments)
        except Exception as exc:
            self._ranks.give_up(exc)
