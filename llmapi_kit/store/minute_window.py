"""What was used in the last minute, and how long until there is room again.

A sliding window: what was used in the minute of the clock before this one counts by the share of it that is less than
60 s ago. Light, so that whoever checks limits need not import a database.

Source: the "sliding window counter" of https://limits.readthedocs.io
"""

from __future__ import annotations

import math
from typing import NamedTuple

WINDOW_S = 60
MOMENT_S = 0.001


class Window(NamedTuple):
    """Two minutes of the clock.

    Attributes:
        before: counted in the last one.
        before_s: seconds that it still counts for.
        now: counted in this one.
        now_s: seconds that it still counts for.
    """

    before: int
    before_s: float
    now: int
    now_s: float

    def has_room(self, limit: int, amount: int) -> bool:
        """Whether so much more stays within the limit."""
        return self._used < limit - amount + 1

    def remaining(self, limit: int) -> tuple[int, float]:
        """What is left now, and in how many seconds all is."""
        return max(0, limit - math.floor(self._used)), self._wait_s(room=1)

    def wait_s(self, limit: int, amount: int) -> float:
        """In how many seconds there is room for so much more, if nothing else comes; `amount` is within the limit."""
        return self._wait_s(room=limit - amount + 1)

    def after(self, seconds: float) -> Window:
        """The same some time later, if nothing else came."""
        if seconds < self.before_s:
            return Window(self.before, self.before_s - seconds, self.now, self.now_s - seconds)
        left_s = self.now_s - seconds
        return Window(self.now, left_s, 0, left_s + WINDOW_S) if left_s > 0 else Window(0, 0.0, 0, 0.0)

    @property
    def _used(self) -> float:
        return self.before * self.before_s / WINDOW_S + self.now

    def _wait_s(self, *, room: int) -> float:
        """In how many seconds less than `room` is counted, which is rounded down: that is one more than may be."""
        if self.now >= room:  # when enough of this minute has slid out, in the next one
            return self.now_s - WINDOW_S * room / self.now + MOMENT_S
        wait_s = self.before_s - WINDOW_S * (room - self.now) / self.before if self.before else -1.0
        return wait_s + MOMENT_S if wait_s >= 0 else 0.0
