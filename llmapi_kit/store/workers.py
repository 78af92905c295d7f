"""Threads that do one piece of work after another, so that no event loop waits for a database.

Threads of its own and not an executor's: those take nothing any more once the interpreter begins to end, which is when
a kernel's servers stop and write what they still hold.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[], Any]
    future: Future[Any]


class Workers:
    """Does what is submitted, in order, by so many threads. All methods may be called from any thread.

    Args:
        num: threads; with one, everything runs on the same thread.
        name: of the threads.
    """

    def __init__(self, num: int, name: str) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_closed = False
        self._threads = [threading.Thread(target=self._run, name=name, daemon=True) for _ in range(num)]
        for thread in self._threads:
            thread.start()

    @property
    def num_waiting(self) -> int:
        """What was submitted and not yet begun, about."""
        return self._jobs.qsize()

    def submit(self, work: Callable[[], T]) -> Future[T] | None:
        """Have work done; None once closed."""
        job = _Job(work, Future())
        with self._lock:  # nothing may come after the end of the queue
            if self._is_closed:
                return None
            self._jobs.put(job)
        return job.future

    def close(self, timeout_s: float) -> bool:
        """Take nothing more, do what was submitted, and end the threads. Safe to call twice.

        Returns:
            Whether they ended in time.
        """
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                for _ in self._threads:
                    self._jobs.put(None)
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                result = job.work()
            except BaseException as exc:
                job.future.set_exception(exc)
            else:
                job.future.set_result(result)
            del job  # or what it holds would live until the next one comes
