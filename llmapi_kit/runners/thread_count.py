"""How many threads torch gets for a step's small operations. Knows nothing of runners."""

from __future__ import annotations

import torch

SMALL_MODEL_BYTES = 100_000_000


def best_num_threads(weights_bytes: int) -> int:
    """One thread for a small model, all that torch would take for others.

    OpenMP's threads wait for each other by spinning. In a small model's steps that is most of the time, and the
    server's thread and the cells then have no core to run on: on two cores with another process beside it, a 4 M
    parameter model made 68 tokens a second with two threads and 1,210 with one.
    """
    return 1 if weights_bytes < SMALL_MODEL_BYTES else torch.get_num_threads()
