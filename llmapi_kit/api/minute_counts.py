"""What was used in the last minute, by name, and how long until there is room again.

A sliding window: what was used in the minute of the clock before this one counts by the share of it that is less than
60 s ago. The counting is that of the library `limits`, in this process's memory; several servers count apart, whatever
database they share. On one thread only.

Source: the "sliding window counter" of https://limits.readthedocs.io
"""

from __future__ import annotations

import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

WINDOW_S = 60
MOMENT_S = 0.001


class MinuteCounts:
    """Counts by name; a name has one limit."""

    def __init__(self) -> None:
        self._storage = MemoryStorage()
        self._limiter = SlidingWindowCounterRateLimiter(self._storage)

    def has_room(self, name: str, limit: int, amount: int) -> bool:
        """Whether so much more stays within the limit."""
        return self._limiter.test(RateLimitItemPerMinute(limit), name, cost=amount)

    def add(self, name: str, limit: int, amount: int) -> str:
        """Count; returns the window it was counted in, for `take_back`."""
        key = RateLimitItemPerMinute(limit).key_for(name)
        window = self._storage.sliding_window_keys(key, WINDOW_S, time.time())[1]
        self._storage.incr(window, 2 * WINDOW_S, amount)
        return window

    def take_back(self, window: str, amount: int) -> None:
        """Count less in a window, if it still counts."""
        if self._storage.get(window):
            self._storage.decr(window, amount)

    def remaining(self, name: str, limit: int) -> tuple[int, float]:
        """What is left now, and in how many seconds all is."""
        left = self._limiter.get_window_stats(RateLimitItemPerMinute(limit), name)[1]
        return left, self.wait_s(name, limit, limit)

    def wait_s(self, name: str, limit: int, amount: int) -> float:
        """In how many seconds there is room for so much more, if nothing else comes; `amount` is within the limit."""
        key = RateLimitItemPerMinute(limit).key_for(name)
        before, before_s, now, now_s = self._storage.get_sliding_window(key, WINDOW_S)
        room = limit - amount + 1  # the count is rounded down
        if now >= room:  # when enough of this minute has slid out, in the next one
            return now_s - WINDOW_S * room / now + MOMENT_S
        wait_s = before_s - WINDOW_S * (room - now) / before if before else -1.0
        return wait_s + MOMENT_S if wait_s >= 0 else 0.0
