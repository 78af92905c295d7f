"""What all processes of an engine have counted, one after the other: those that are gone take no count along.

Knows nothing of requests. Thread-safe.
"""

from __future__ import annotations

import threading
from dataclasses import replace

from llmapi_kit.engines.process.child import Child
from llmapi_kit.types import EngineStats


class Counts:
    """See the module."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._past = EngineStats()
        self._last: dict[Child, EngineStats] = {}
        self._current: Child | None = None

    def begin(self, child: Child) -> None:
        """A process counts from now on. What the one before it had said may still be on its way."""
        with self._lock:
            for gone in list(self._last)[:-1]:
                self._past = self._last.pop(gone).after(self._past)
            self._last[child] = EngineStats(num_slots=self._num_slots())
            self._current = child

    def end(self, child: Child) -> None:
        """A process is gone: nothing runs there any more."""
        with self._lock:
            self._last[child] = EngineStats(num_slots=self._num_slots()).after(self._last[child])
            self._current = None

    def heard(self, child: Child, stats: EngineStats) -> None:
        """Take what a process says of itself, over any of its connections, and so not always in order."""
        with self._lock:
            known = self._last.get(child)
            if known is not None and _num_ended(stats) >= _num_ended(known):
                self._last[child] = stats

    def lost(self, *, num_finished: int, num_failed: int) -> None:
        """Count requests that a process had not counted, or had not said so, when it died."""
        with self._lock:
            self._past = replace(
                self._past,
                num_finished=self._past.num_finished + num_finished,
                num_failed=self._past.num_failed + num_failed,
            )

    def total(self) -> EngineStats:
        """Of all of them; what runs now is that of the last one, if it lives."""
        with self._lock:
            current = self._last.get(self._current) if self._current is not None else None
            total = current or EngineStats(num_slots=self._num_slots())
            for child, stats in self._last.items():
                if child is not self._current:
                    total = total.after(stats)
            return total.after(self._past)

    def _num_slots(self) -> int:
        return next((stats.num_slots for stats in reversed(self._last.values())), 0)


def _num_ended(stats: EngineStats) -> int:
    return stats.num_finished + stats.num_failed + stats.num_cancelled
