"""One thread or several: whichever computes steps sooner, as other programs come and go. Knows nothing of models.

The library's threads wait for each other by spinning. Alone on the machine, two compute twice as much as one; where
another program wants the cores, too, steps of a 0.36 B model were seen to take 14 times as long on two threads as on
one. So a step is tried with the other number now and then, and at once when steps suddenly take long. A single one that
does is nothing; after several, or after a try that took long, the next try waits until it costs little. More threads
are tried for some steps: the first one wakes them, and whoever takes the answers disturbs them now and then.
"""

from __future__ import annotations

EARLY = 2  # steps before one thread is tried first: the machine may be busy from the start
FIRST_WAIT, LONGEST_WAIT = 16, 256  # steps between two tries; the wait doubles while they do not pay
IS_SOONER, IS_SUDDEN = 0.9, 3.0  # times as long as usual
MAX_COST = 0.05  # of the time until the next try, for a try, or for threads that were a mistake
WEIGHT = 0.2  # of the latest step in what is usual
TRIED = 4  # steps on more threads that count together
SMALL_MODEL_BYTES, SMALL_MODEL_THREADS = 100_000_000, 2  # more only wait for each other


class ThreadChoice:
    """Says how many threads a step is to have, and is told how long it took.

    Args:
        most: threads that a step may have.
        first: how many it has at first.

    Attributes:
        num_threads: of the next step, unless it is a try.
    """

    def __init__(self, most: int, first: int | None = None) -> None:
        self.num_threads = most if first is None else first
        self._most = most
        self._usual_s: dict[int, float] = {}  # by the number of tokens
        self._wait, self._left = FIRST_WAIT, LONGEST_WAIT if self.num_threads == 1 else EARLY
        self._is_try = self._is_awake = False
        self._tried: list[float] = []  # of the steps of a try, how long each took, times the usual
        self._lost_s, self._num_calm = 0.0, 0  # by sudden steps, and how many went well since

    def next(self, num_tokens: int) -> int:
        """Threads for a step.

        Args:
            num_tokens: of a step like many others, whose times can be compared, or a class of sizes; 0 for any other.
        """
        self._is_try = self._most > 1 and self._left <= 0 and num_tokens in self._usual_s
        return self._other if self._is_try else self.num_threads

    def record(self, num_tokens: int, seconds: float) -> None:
        """Learn how long the step took that `next` was asked about."""
        if not num_tokens:
            return
        usual_s = self._usual_s.get(num_tokens, seconds)
        if self._is_try:
            self._learn_from_try(num_tokens, seconds, usual_s)
            return
        is_sudden = seconds > IS_SUDDEN * usual_s and self.num_threads > 1
        counted_s = min(seconds, IS_SUDDEN * usual_s) if is_sudden and not self._lost_s else seconds
        self._usual_s[num_tokens] = usual_s + WEIGHT * (counted_s - usual_s)
        if is_sudden:
            self._left, self._num_calm, self._lost_s = 0, 0, self._lost_s + seconds
            return
        self._left, self._num_calm = self._left - 1, self._num_calm + 1
        if self._num_calm >= FIRST_WAIT:
            self._lost_s = 0.0

    def _learn_from_try(self, num_tokens: int, seconds: float, usual_s: float) -> None:
        is_slow, has_more = seconds >= IS_SUDDEN * usual_s, self._other > 1
        # A first step wakes threads that sleep, which can take as long as a small model's step. So it does not count
        if has_more and not self._is_awake and not is_slow:
            self._is_awake = True
            return
        self._tried.append(seconds / usual_s)
        if has_more and not is_slow and len(self._tried) < TRIED:
            return
        ratio = sum(self._tried) / len(self._tried)
        self._is_awake, self._tried = False, []
        is_better = ratio < IS_SOONER
        self._wait = FIRST_WAIT if is_better else min(2 * self._wait, LONGEST_WAIT)
        lost_s = max(seconds, self._lost_s)
        self._left = max(self._wait, round(lost_s / (min(ratio, 1) * usual_s) / MAX_COST))
        if is_better:
            self.num_threads, self._usual_s = self._other, {num_tokens: ratio * usual_s}

    @classmethod
    def for_model(cls, weights_bytes: int, num_cores: int) -> ThreadChoice:
        """For a model's steps: all cores; of a small one, one thread that is joined by another where that is sooner."""
        if weights_bytes < SMALL_MODEL_BYTES:
            return cls(min(SMALL_MODEL_THREADS, num_cores), first=1)
        return cls(num_cores)

    @property
    def _other(self) -> int:
        return 1 if self.num_threads == self._most else self._most
