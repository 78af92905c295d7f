"""How many threads torch gets for small operations. Knows nothing of runners."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from llmapi_kit.runners.thread_choice import SMALL_MODEL_BYTES


def best_num_threads(weights_bytes: int) -> int:
    """One thread for a small model, all that torch would take for others.

    OpenMP's threads wait for each other by spinning. In a small model's steps that is most of the time, and the
    server's thread and the cells then have no core to run on: on two cores with another process beside it, a 4 M
    parameter model made 68 tokens a second with two threads and 1,210 with one.
    """
    return 1 if weights_bytes < SMALL_MODEL_BYTES else torch.get_num_threads()


_lock = threading.Lock()


def keep_num_threads(num_threads: int) -> None:
    """Let torch take so many threads in this thread for good, and as many as before in threads that begin later.

    torch's own call sets both at once, so another thread, which has no use for it itself, sets the latter back.
    """
    with _lock:
        before = torch.get_num_threads()
        torch.set_num_threads(num_threads)
        restoring = threading.Thread(target=torch.set_num_threads, args=(before,))
        restoring.start()
        restoring.join()


@contextmanager
def num_threads_set(num_threads: int) -> Iterator[None]:
    """Let torch take so many threads in this thread, while it lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
