"""The encoding loop: threads that compute queued sequences in batches of about one length.

Each batch begins with the longest sequence of the job whose turn it is, and is filled up with sequences of about that
length, of this job and of the others: so a long job holds nobody up for more than a batch for each job beside it.
Knows nothing of texts, HTTP or asyncio. Jobs are submitted from any thread, and end in a `concurrent.futures.Future`.
"""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field, replace

from llmapi_kit.batching.loop import STALLED_AFTER_S
from llmapi_kit.errors import EngineUnavailableError, GenerationError, QueueFullError, RequestError, RequestTimeoutError
from llmapi_kit.runners.encoder import Encoder, EncoderInput
from llmapi_kit.types import EngineStats, Readiness

logger = logging.getLogger(__name__)

JOIN_S = 10.0
# What is as long as this share of a batch's longest sequence goes with it, and what is only this many tokens shorter
SIMILAR, NEAR = 0.8, 8

Item = tuple[int, int]  # length of a sequence, and its place in the job


@dataclass(eq=False, slots=True)
class Job:
    """The sequences of one request.

    Attributes:
        inputs: to compute.
        key_id: whose they are: where jobs wait, keys have shares.
        future: gets the vectors, in the order of `inputs`; cancelling it stops the work.
        left: what was not computed yet, by length.
        vectors: what was.
        enqueued_at: when it came.
        is_begun: whether a batch with one of its sequences was started.
    """

    inputs: Sequence[EncoderInput]
    key_id: str = ""
    future: Future[list[list[float]]] = field(default_factory=Future)
    left: list[Item] = field(default_factory=list)
    vectors: dict[int, list[float]] = field(default_factory=dict)
    enqueued_at: float = field(default_factory=time.monotonic)
    is_begun: bool = False

    def __post_init__(self) -> None:
        self.left = sorted((len(each.ids), place) for place, each in enumerate(self.inputs))


class EncodingLoop:
    """Drives one encoder.

    Args:
        encoder: owned from now on: closed when the last thread ended.
        max_queue: jobs that may be there at once; one more is refused.
        queue_timeout_s: a job that waits longer for its first batch fails.
        name: of the threads.
    """

    def __init__(self, encoder: Encoder, *, max_queue: int, queue_timeout_s: float, name: str) -> None:
        self._encoder = encoder
        self._max_queue = max_queue
        self._queue_timeout_s = queue_timeout_s
        self._wake = threading.Condition()
        self._jobs: deque[Job] = deque()  # with sequences left; the first one's turn it is
        self._computing: dict[int, float] = {}  # thread to when it began a batch
        self._num_under_way = 0
        self._stats = EngineStats(num_slots=encoder.num_workers)
        self._closed_because: RequestError | None = None
        self._threads = [
            threading.Thread(target=self._run, name=f"{name} {number}", daemon=True)
            for number in range(encoder.num_workers)
        ]
        self._num_alive = len(self._threads)
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job; returns at once.

        Raises:
            QueueFullError: too many are there.
            EngineUnavailableError: the loop was closed or has died.
        """
        with self._wake:
            if self._closed_because is not None:
                raise self._closed_because
            if len(self._jobs) >= self._max_queue and not self._has_share(job.key_id):
                raise QueueFullError(
                    f"{len(self._jobs)} requests already wait for this model (the limit is {self._max_queue}). "
                    "Try again in a moment.",
                    retry_after_s=1,
                )
            self._jobs.append(job)
            self._wake.notify()

    def close(self) -> None:
        """End the threads; jobs that are not complete fail with `EngineUnavailableError`. Safe to call twice."""
        with self._wake:
            if self._closed_because is None:
                self._closed_because = EngineUnavailableError("The model was unloaded; kit.load(…) loads it again.")
            self._wake.notify_all()
        deadline = time.monotonic() + JOIN_S
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def readiness(self) -> Readiness:
        """Whether a job submitted now would be worked on."""
        if self._closed_because is not None:
            return Readiness(False, self._closed_because.message)
        begun = self.step_started()
        if begun is not None and (busy_s := time.monotonic() - begun) > STALLED_AFTER_S:
            return Readiness(False, f"The model has been computing one batch for {busy_s:.0f} s.")
        return Readiness(True)

    def step_started(self) -> float | None:
        """When the oldest batch that is being computed began; None where none is."""
        return min(tuple(self._computing.values()), default=None)

    def stats(self) -> EngineStats:
        """A snapshot of the counters."""
        with self._wake:
            num_waiting = sum(not job.is_begun for job in self._jobs)
            return replace(self._stats, num_running=self._num_under_way, num_queued=num_waiting)

    def _has_share(self, key_id: str) -> bool:
        """Whether a full queue still takes a job, as its key has less than its share; see `BatchingLoop`."""
        waiting = Counter(job.key_id for job in self._jobs)
        num_keys = len(waiting.keys() | {key_id})
        return num_keys > 1 and waiting[key_id] < max(1, self._max_queue // num_keys)

    # On the loop's threads

    def _run(self) -> None:
        try:
            self._encoder.start()
            while (batch := self._next_batch()) is not None:
                self._compute(batch)
        except BaseException as exc:
            logger.exception("A thread of the encoding loop died")
            with self._wake:
                self._closed_because = EngineUnavailableError(f"The engine died: {type(exc).__name__}: {exc}")
                self._wake.notify_all()
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._wake:
            self._num_alive -= 1
            is_last = self._num_alive == 0
            jobs = list(self._jobs) if is_last else []
            error = self._closed_because or EngineUnavailableError("The engine ended.")
            for job in jobs:
                self._end(job, error)
        if is_last:
            self._encoder.close()

    def _next_batch(self) -> list[tuple[Job, int]] | None:
        """Jobs with places of their sequences, to be computed together; waits for some. None to end."""
        with self._wake:
            while self._closed_because is None:
                self._drop()
                if self._jobs:
                    batch = self._take()
                    self._computing[threading.get_ident()] = time.monotonic()
                    if self._jobs:
                        self._wake.notify()
                    return batch
                self._wake.wait()
            return None

    def _drop(self) -> None:
        """Let go of jobs that nobody waits for any more, or that waited too long."""
        oldest = time.monotonic() - self._queue_timeout_s
        for job in list(self._jobs):
            if job.future.cancelled():
                self._end(job)
            elif not job.is_begun and job.enqueued_at < oldest:
                message = f"The request waited {self._queue_timeout_s:.0f} s for its turn. Try again later."
                self._end(job, RequestTimeoutError(message))

    def _take(self) -> list[tuple[Job, int]]:
        longest = max(self._jobs[0].left[-1][0], 1)
        least = min(int(longest * SIMILAR), longest - NEAR)
        room = max(1, self._encoder.batch_tokens // longest)
        batch: list[tuple[Job, int]] = []
        for job in list(self._jobs):
            taken = _cut(job.left, least, longest, room - len(batch))
            if taken and not job.is_begun:
                job.is_begun = True
                self._num_under_way += 1
            batch += [(job, place) for _, place in taken]
            if not job.left:
                self._jobs.remove(job)
            if len(batch) >= room:
                break
        self._jobs.rotate(-1)
        return batch

    def _compute(self, batch: Sequence[tuple[Job, int]]) -> None:
        try:
            self._encode(batch)
        except Exception as exc:
            jobs = list(dict.fromkeys(job for job, _ in batch))
            for job in jobs:  # alone, so that only the one at fault fails
                try:
                    if len(jobs) == 1:
                        raise exc
                    self._encode([each for each in batch if each[0] is job])
                except Exception as own:
                    logger.exception("A batch failed")
                    with self._wake:
                        self._end(
                            job, GenerationError(f"The model failed on this request: {type(own).__name__}: {own}")
                        )
        finally:
            with self._wake:
                self._computing.pop(threading.get_ident(), None)

    def _encode(self, batch: Sequence[tuple[Job, int]]) -> None:
        vectors = self._encoder.encode([job.inputs[place] for job, place in batch])
        with self._wake:
            for (job, place), vector in zip(batch, vectors, strict=True):
                job.vectors[place] = vector
                self._stats.num_prompt_tokens += len(job.inputs[place].ids)
            for job in dict.fromkeys(job for job, _ in batch):
                if len(job.vectors) == len(job.inputs) or job.future.cancelled():
                    self._end(job)

    def _end(self, job: Job, error: RequestError | None = None) -> None:
        """Give a job its result, or the reason why there is none, and count it. With the lock held."""
        if job in self._jobs:
            self._jobs.remove(job)
        if job.is_begun:
            self._num_under_way -= 1
            job.is_begun = False
        try:
            if job.future.done():
                self._stats.num_cancelled += job.future.cancelled()
            elif error is None:
                job.future.set_result([job.vectors[place] for place in range(len(job.inputs))])
                self._stats.num_finished += 1
            else:
                job.future.set_exception(error)
                self._stats.num_failed += 1
        except InvalidStateError:  # cancelled this very moment
            self._stats.num_cancelled += 1


def _cut(left: list[Item], least: int, longest: int, room: int) -> list[Item]:
    """Take up to `room` sequences out of those left, the longest of the given lengths."""
    end = bisect_right(left, (longest, len(left) + 2**31))
    begin = max(bisect_left(left, (least, -1)), end - room)
    taken = left[begin:end]
    del left[begin:end]
    return taken
