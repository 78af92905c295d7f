"""What was used in the last minute, by name, and how long until there is room again.

A sliding window: what was used in the minute of the clock before this one counts by the share of it that is less than
60 s ago. The counting is that of the library `limits`, in this process's memory; several servers count apart, whatever
database they share. On one thread only.

Source: the "sliding window counter" of https://limits.readthedocs.io
"""

from __future__ import annotations

import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

WINDOW_S = 60
MOMENT_S = 0.001
Window = tuple[int, float, int, float]
"""Counted in the minute before, seconds that it still counts for; the same of this minute."""


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
        before, before_s, now, _ = window = self._window(name, limit)
        left = limit - math.floor(before * before_s / WINDOW_S + now)
        return max(0, left), _wait_s(window, room=1)

    def wait_s(self, name: str, limit: int, amount: int) -> float:
        """In how many seconds there is room for so much more, if nothing else comes; `amount` is within the limit."""
        return _wait_s(self._window(name, limit), room=limit - amount + 1)

    def _window(self, name: str, limit: int) -> Window:
        return self._storage.get_sliding_window(RateLimitItemPerMinute(limit).key_for(name), WINDOW_S)


def _wait_s(window: Window, *, room: int) -> float:
    """In how many seconds less than `room` is counted; counts are rounded down, so that is one more than may be."""
    before, before_s, now, now_s = window
    if now >= room:  # when enough of this minute has slid out, in the next one
        return now_s - WINDOW_S * room / now + MOMENT_S
    wait_s = before_s - WINDOW_S * (room - now) / before if before else -1.0
    return wait_s + MOMENT_S if wait_s >= 0 else 0.0
