"""Few rows in one call or in a call each: whichever computes them sooner. Knows nothing of models.

A row alone is read through kernels that are made for it, and many rows through others. Between them lie a few rows that
suit neither: of a 0.36 B model in Q4_K_M, two in one call were seen to take 1.8 times as long as two calls. Where that
is so depends on the file, the library, the machine and the number of threads, so each number is tried both ways.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

MOST_ROWS = 5  # more were nowhere seen to be sooner in a call each
FIRST_WAIT, LONGEST_WAIT = 8, 1024  # steps between two tries; the wait doubles while they do not pay
TRIED = 3  # steps that a try takes, and that are compared
IS_SOONER, IS_CLEAR = 0.95, 1.5  # times as long as usual; a try that is clearly no better ends at once


class SplitChoice:
    """Says whether to split a step, and is told how long it took."""

    def __init__(self) -> None:
        self._by_rows = {num_rows: _Comparison() for num_rows in range(2, MOST_ROWS + 1)}

    def next(self, num_rows: int) -> bool:
        """Whether to make a call for each row of a step of so many."""
        comparison = self._by_rows.get(num_rows)
        return comparison is not None and comparison.next()

    def record(self, num_rows: int, seconds: float) -> None:
        """Learn how long the step took that `next` was asked about."""
        comparison = self._by_rows.get(num_rows)
        if comparison is not None:
            comparison.record(seconds)


@dataclass(slots=True)
class _Comparison:
    """Both ways of one number of rows."""

    is_split: bool = False
    _is_try: bool = False
    _wait: int = FIRST_WAIT
    _left: int = FIRST_WAIT
    _usual: deque[float] = field(default_factory=lambda: deque(maxlen=TRIED))
    _tried: list[float] = field(default_factory=list)

    def next(self) -> bool:
        self._is_try = self._left <= 0
        return self.is_split != self._is_try

    def record(self, seconds: float) -> None:
        if not self._is_try:
            self._usual.append(seconds)
            self._left -= 1
            return
        self._tried.append(seconds)
        usual_s = median(self._usual)
        if len(self._tried) < TRIED and seconds < IS_CLEAR * usual_s:
            return
        if median(self._tried) < IS_SOONER * usual_s:
            self.is_split = not self.is_split
            self._usual.extend(self._tried)
            self._wait = FIRST_WAIT
        else:
            self._wait = min(2 * self._wait, LONGEST_WAIT)
        self._tried.clear()
        self._left = self._wait
