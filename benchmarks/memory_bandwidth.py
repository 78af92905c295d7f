"""How fast this machine reads memory: what limits a decoding step of a large model.

A step at batch 1 reads all weights once, so their size times steps/s says how much of it the step makes use of.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

SIZE_BYTES = 1 << 29  # far beyond any cache
NUM_READS = 5


def read_bandwidth(size_bytes: int = SIZE_BYTES) -> float:
    """Bytes/s of all cores summing up what lies in memory; the best of several, as anything else slows it down."""
    num_threads = os.cpu_count() or 1
    parts = np.array_split(np.ones(size_bytes // 4, np.float32), num_threads)
    best = 0.0
    with ThreadPoolExecutor(num_threads) as threads:
        for _ in range(NUM_READS):
            started = time.perf_counter()
            list(threads.map(np.sum, parts))
            best = max(best, size_bytes / (time.perf_counter() - started))
    return best
