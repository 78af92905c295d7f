"""How long to wait before the next try: longer each time, and never the same for everybody."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

FIRST_S = 1.0
LONGEST_S = 300.0
# Of a wait: so that many that failed at one moment do not come back at one moment
JITTER = 0.3


@dataclass(slots=True)
class Backoff:
    """Waits that double from the first to the longest, each shortened or lengthened by up to `JITTER`.

    Attributes:
        first_s: the first wait.
        longest_s: the longest, before jitter.
        num_tries: how many waits were given out since the latest `reset`.
    """

    first_s: float = FIRST_S
    longest_s: float = LONGEST_S
    num_tries: int = field(default=0, init=False)

    def next_s(self) -> float:
        """How long to wait now."""
        wait_s = min(self.longest_s, self.first_s * 2.0 ** min(self.num_tries, 60))
        self.num_tries += 1
        return wait_s * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret

    def slow_down(self) -> None:
        """Wait the longest from now on: what failed will not be better soon."""
        self.num_tries = max(self.num_tries, 60)

    def reset(self) -> None:
        """It worked: begin with the first wait again."""
        self.num_tries = 0
