"""What was used in the last minute, by name, in this process's memory. On one thread only.

The counting is that of the library `limits`. What several servers with one database count together is in
`llmapi_kit.api.shared_counts`.
"""

from __future__ import annotations

import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage

from llmapi_kit.store.minute_window import WINDOW_S, Window


class MinuteCounts:
    """Counts by name; a name has one limit."""

    def __init__(self) -> None:
        self._storage = MemoryStorage()

    def window(self, name: str, limit: int) -> Window:
        """What counts now."""
        return Window(*self._storage.get_sliding_window(RateLimitItemPerMinute(limit).key_for(name), WINDOW_S))

    def add(self, name: str, limit: int, amount: int) -> str:
        """Count; returns the minute it was counted in, for `take_back`."""
        key = RateLimitItemPerMinute(limit).key_for(name)
        minute = self._storage.sliding_window_keys(key, WINDOW_S, time.time())[1]
        self._storage.incr(minute, 2 * WINDOW_S, amount)
        return minute

    def take_back(self, minute: str, amount: int) -> None:
        """Count less in a minute, if it still counts."""
        if self._storage.get(minute):
            self._storage.decr(minute, amount)
