"""One thread or several: whichever computes steps sooner, as other programs come and go. Knows nothing of models.

The library's threads wait for each other by spinning. Alone on the machine, two compute twice as much as one; where
another program wants the cores, too, steps of a 0.36 B model were seen to take 14 times as long on two threads as on
one. So a step is tried with the other number now and then, and at once when steps suddenly take long.
"""

from __future__ import annotations

EARLY = 2  # steps before the first try: the machine may be busy from the start
FIRST_WAIT, LONGEST_WAIT = 16, 256  # steps between two tries; the wait doubles while they do not pay
IS_SOONER, IS_SUDDEN = 0.9, 3.0  # times as long as usual
WEIGHT = 0.2  # of the latest step in what is usual


class ThreadChoice:
    """Says how many threads a step shall have, and is told how long it took.

    Args:
        most: threads that a step may have.

    Attributes:
        num_threads: of the next step, unless it is a try.
    """

    def __init__(self, most: int) -> None:
        self.num_threads = most
        self._most = most
        self._usual_s: dict[int, float] = {}  # by the number of tokens
        self._wait, self._left = FIRST_WAIT, EARLY
        self._is_try = False

    def next(self, num_tokens: int) -> int:
        """Threads for a step.

        Args:
            num_tokens: of a step like many others, whose times can be compared; 0 for any other step.
        """
        self._is_try = self._most > 1 and self._left <= 0 and num_tokens in self._usual_s
        return self._other if self._is_try else self.num_threads

    def took(self, num_tokens: int, seconds: float) -> None:
        """Learn how long the step took that `next` was asked about."""
        if not num_tokens:
            return
        usual_s = self._usual_s.get(num_tokens, seconds)
        if self._is_try:
            is_better = seconds < IS_SOONER * usual_s
            self._wait = FIRST_WAIT if is_better else min(2 * self._wait, LONGEST_WAIT)
            self._left = self._wait
            if is_better:
                self.num_threads, self._usual_s = self._other, {num_tokens: seconds}
            return
        self._usual_s[num_tokens] = usual_s + WEIGHT * (seconds - usual_s)
        self._left = 0 if seconds > IS_SUDDEN * usual_s else self._left - 1

    @property
    def _other(self) -> int:
        return 1 if self.num_threads == self._most else self._most
