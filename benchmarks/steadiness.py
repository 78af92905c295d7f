"""Whether the machine held still while it was measured: the same small piece of work, timed before each measurement.

Other programs on the same cores can change a figure many times over, and a median hides it. So every report says how
much the reference work varied, and calls the run unsteady where that is too much to trust ratios.
"""

from __future__ import annotations

import time

import numpy as np

from benchmarks.figures import percentile

SIZE = 512
NUM_PRODUCTS = 20
MAX_SPREAD = 1.5  # of the 90th percentile over the quickest


class Steadiness:
    """Times of the reference work, in seconds."""

    def __init__(self) -> None:
        self.times_s: list[float] = []
        self._matrix = np.random.default_rng(0).random((SIZE, SIZE), dtype=np.float32)

    def probe(self) -> None:
        """Do the reference work once, on all cores; blocks for some tens of milliseconds."""
        started = time.perf_counter()
        for _ in range(NUM_PRODUCTS):
            self._matrix @ self._matrix
        self.times_s.append(time.perf_counter() - started)

    @property
    def spread(self) -> float:
        """The 90th percentile over the quickest; 1 is perfectly steady."""
        high = percentile(self.times_s, 90)
        return high / min(self.times_s) if high else 1.0

    def sentence(self) -> str:
        """What a report says of it."""
        if not self.times_s:
            return ""
        low, middle, high = (1000 * (percentile(self.times_s, percent) or 0) for percent in (0, 50, 90))
        text = (
            f"The same reference work, done before each of {len(self.times_s)} measurements, took {low:.0f} ms at "
            f"best, {middle:.0f} ms in the middle, {high:.0f} ms at the 90th percentile."
        )
        if self.spread > MAX_SPREAD:
            return (
                f"**The machine was unsteady: other programs used it. Don't trust these figures or their ratios; "
                f"measure again.** {text}"
            )
        return f"The machine was steady. {text}"
