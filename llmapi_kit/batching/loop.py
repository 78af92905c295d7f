"""The batching loop: a thread that turns queued requests into events, one step after another.

Each round: take in new requests, drop cancelled ones, let the scheduler plan a step, run it, sample, turn tokens
into text, and hand all events of the step over in one call. Knows nothing of HTTP, asyncio or chat templates. An
engine starts it, submits to it from any thread, and gets `deliver` called on the loop's thread.

Every submitted request gets exactly one terminal event, also when its step fails (it alone fails), when the thread
dies and when the loop is closed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace

from llmapi_kit.batching.counters import Counters
from llmapi_kit.batching.draft_model import DraftModel
from llmapi_kit.batching.event_outbox import EventOutbox, StepEvents
from llmapi_kit.batching.output_processor import OutputProcessor, TokenBytes
from llmapi_kit.batching.request import Request
from llmapi_kit.batching.scheduler import Scheduler
from llmapi_kit.batching.step_executor import Plan, StepExecutor
from llmapi_kit.errors import EngineUnavailableError, QueueFullError, RequestError, RequestTimeoutError
from llmapi_kit.runners.base import PagedRunner, Runner, StepItem
from llmapi_kit.switch_interval import shorten_switch_interval
from llmapi_kit.types import EngineStats, Failed, Readiness

logger = logging.getLogger(__name__)

STALLED_AFTER_S = 30.0
# Requests that come together come one after the other. Where their prompts take longer than that, the first one is held
# until no more come: prompts in one step are computed sooner than those that wait for their turn beside its answer
LONG_PREFILL_S, BURST_GAP_S = 0.05, 0.003


def _no_bytes(token_id: int, *, skip_special_tokens: bool = True, begins_text: bool = False) -> bytes:
    return b""


class BatchingLoop:
    """Drives one runner.

    Args:
        runner: computes steps; used by this loop's thread only.
        deliver: takes all events of a step, on the loop's thread; must be quick and must not raise.
        eos_ids: tokens that end an answer.
        token_bytes: bytes of a token id, for logprobs.
        max_queue: requests that may wait for a slot; one more is refused.
        step_tokens: see `Scheduler`.
        max_stall_s: see `Scheduler`.
        queue_timeout_s: a request that waits longer for a slot fails.
        has_prefix_cache: whether slots keep what they computed, for prompts that begin alike.
        draft: writes on ahead for requests that have a `DraftProposer`; used by this loop's thread only.
        name: of the thread.
    """

    def __init__(
        self,
        runner: Runner,
        deliver: Callable[[StepEvents], None],
        *,
        eos_ids: frozenset[int] = frozenset(),
        token_bytes: TokenBytes = _no_bytes,
        max_queue: int = 128,
        step_tokens: int = 512,
        max_stall_s: float = 0.2,
        queue_timeout_s: float = 60.0,
        has_prefix_cache: bool = True,
        draft: DraftModel | None = None,
        name: str = "llmapi_kit engine",
    ) -> None:
        self._runner = runner
        self._draft = draft
        self._writer = OutputProcessor(eos_ids, token_bytes)
        self._max_queue = max_queue
        self._queue_timeout_s = queue_timeout_s
        paged = runner if isinstance(runner, PagedRunner) else None
        self._scheduler = Scheduler(
            runner.num_slots,
            step_tokens,
            max_stall_s=max_stall_s,
            has_prefix_cache=has_prefix_cache,
            page_size=paged.page_size if paged else 1,
            num_pages=paged.num_pages if paged else 0,
        )
        self._counters = Counters(runner.num_slots)
        self._outbox = EventOutbox(deliver, self._scheduler, runner, self._counters, draft)
        self._executor = StepExecutor(runner, self._scheduler, self._writer, self._outbox, self._counters)
        self._kv_tokens = paged.num_pages * paged.page_size if paged else runner.num_slots * runner.max_length
        self._wake = threading.Condition()
        self._inbox: deque[Request] = deque()
        self._calls: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._due_calls: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._closed_because: RequestError | None = None
        self._step_started: float | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    # Called from any thread

    def submit(self, *requests: Request) -> None:
        """Queue requests, all of them or none; returns at once.

        Raises:
            QueueFullError: too many requests would wait; nothing was queued.
            EngineUnavailableError: the loop was closed or has died.
        """
        with self._wake:
            if self._closed_because is not None:
                raise self._closed_because
            # Requests that the free slots will take at once are not waiting.
            num_free = self._runner.num_slots - len(self._scheduler.running)
            num_waiting = len(self._inbox) + len(self._scheduler.waiting) - max(0, num_free)
            if num_waiting + len(requests) > self._max_queue and not self._has_share(requests):
                raise QueueFullError(
                    f"{num_waiting} requests already wait for this model (the limit is {self._max_queue}). "
                    "Try again in a moment.",
                    retry_after_s=1,
                )
            self._inbox.extend(requests)
            self._wake.notify()

    def _has_share(self, requests: Sequence[Request]) -> bool:
        """Whether a full queue still takes requests, as their key has less than its share of it.

        So one key can't keep the others out. With so many keys k, the queue has at most 1 + 1/2 + … + 1/k times what it
        has with one.
        """
        waiting = Counter(request.key_id for request in (*self._inbox, *tuple(self._scheduler.waiting)))
        key_id = requests[0].key_id
        num_keys = len(waiting.keys() | {key_id})
        return num_keys > 1 and waiting[key_id] + len(requests) <= max(1, self._max_queue // num_keys)

    def abort(self, request: Request) -> None:
        """Stop a request whose consumer left; its slot is free before the next step. It gets no more events."""
        with self._wake:
            request.is_cancelled = True
            self._wake.notify()

    def call(self, work: Callable[[], None]) -> Future[None]:
        """Have something done on the loop's thread, between two steps; returns at once."""
        done: Future[None] = Future()
        with self._wake:
            if self._closed_because is not None:
                done.set_exception(self._closed_because)
            else:
                self._calls.append((work, done))
                self._wake.notify()
        return done

    def close(self, timeout_s: float = 10.0) -> bool:
        """End the thread; requests still there fail with `EngineUnavailableError`. Safe to call twice.

        Returns:
            Whether the thread ended in time; False means a step still hangs in the model.
        """
        with self._wake:
            if self._closed_because is None:
                self._closed_because = EngineUnavailableError("The model was unloaded; kit.load(…) loads it again.")
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def readiness(self) -> Readiness:
        """Whether a request submitted now would be worked on."""
        if self._closed_because is not None:
            return Readiness(False, self._closed_because.message)
        started = self._step_started
        if started is not None and (busy_s := time.monotonic() - started) > STALLED_AFTER_S:
            return Readiness(False, f"The model has been computing one step for {busy_s:.0f} s.")
        return Readiness(True)

    def step_started(self) -> float | None:
        """When the step that is being computed began, or what is done between steps; None while there is nothing."""
        return self._step_started

    def stats(self) -> EngineStats:
        """A snapshot of the counters."""
        cache, counted = self._scheduler.cache, self._counters.stats
        return replace(
            counted,
            num_prompt_tokens=counted.num_prompt_tokens + cache.num_hit_tokens,
            num_cached_tokens=cache.num_hit_tokens,
            kv_use=cache.num_tokens / self._kv_tokens,
            num_preemptions=self._scheduler.num_preemptions,
            ttft=counted.ttft.copy(),
            inter_token=counted.inter_token.copy(),
            num_running=sum(request.leader is request for request in tuple(self._scheduler.running)),
            num_queued=len(self._inbox) + len(self._scheduler.waiting),
            tokens_per_s=self._counters.tokens_per_s(),
        )

    def has_room(self, num_sequences: int, length: int) -> bool:
        """Whether so many sequences of this length can be held at once."""
        return self._scheduler.has_room(num_sequences, length)

    # On the loop's thread

    def _run(self) -> None:
        shorten_switch_interval()
        try:
            if self._draft is not None:
                self._draft.start()
            self._runner.start()  # last, as the number of threads is the thread's own
            while self._drain_inbox():
                self._step_started = time.monotonic()
                self._answer_calls()
                if self._scheduler.running or self._scheduler.waiting:
                    self._step()
                self._step_started = None
        except BaseException as exc:
            logger.exception("The engine's thread died")
            with self._wake:
                self._closed_because = EngineUnavailableError(f"The engine died: {type(exc).__name__}: {exc}")
        finally:
            self._step_started = None
            self._fail_everything()
            self._executor.close()
            self._runner.close()
            if self._draft is not None:
                self._draft.close()

    def _drain_inbox(self) -> bool:
        """Move new requests to the scheduler and drop cancelled ones; sleeps while idle. False to end."""
        was_idle = False
        with self._wake:
            while True:
                if self._closed_because is not None:
                    return False
                while self._inbox:
                    request = self._inbox.popleft()
                    request.row.ending_ids = self._writer.ending_ids(request)
                    self._scheduler.add(request)
                for request in [r for r in (*self._scheduler.running, *self._scheduler.waiting) if r.is_cancelled]:
                    self._outbox.retire(request)
                    self._counters.stats.num_cancelled += 1
                # Only now: what a call takes away is used no more by requests that were cancelled before it
                self._due_calls, self._calls = self._calls, deque()
                if self._due_calls or self._scheduler.running:
                    return True
                if self._scheduler.waiting:
                    if was_idle and self._is_burst_possible() and self._wake.wait(BURST_GAP_S):
                        continue
                    return True
                self._outbox.flush()
                was_idle = True
                self._wake.wait()

    def _is_burst_possible(self) -> bool:
        """Whether more requests may be about to come that are worth a moment."""
        return len(self._scheduler.waiting) < self._runner.num_slots and self._scheduler.prefill_s > LONG_PREFILL_S

    def _answer_calls(self) -> None:
        while self._due_calls:
            work, done = self._due_calls.popleft()
            try:
                work()
            except Exception as exc:
                done.set_exception(exc)
            else:
                done.set_result(None)

    def _step(self) -> None:
        self._expire_waiting()
        self._write_ahead()  # first, so that the draft has what is copied now
        self._scheduler.admit()
        plan = self._scheduler.schedule()
        for change in self._scheduler.take_changes():
            change.apply(self._runner)
            if self._draft is not None:
                self._draft.follow(change)
        self._outbox.flush()  # now, with little left to do in Python: whoever gets them wants the GIL at once
        self._step_started = started = time.monotonic()
        try:
            self._executor.run(plan)
            num_tokens, seconds = sum(len(item.tokens) for _, item in plan), time.monotonic() - started
            self._scheduler.record_step(num_tokens, seconds)
            if self._draft is not None and all(item.start >= len(request.prompt_ids) for request, item in plan):
                self._draft.checked(num_tokens, seconds)
        except Exception as exc:
            self._recover(exc)
            if all(request.leader is plan[0][0].leader for request, _ in plan):
                self._outbox.fail(plan[0][0], exc)
            else:
                self._compute_one_by_one(plan)

    def _write_ahead(self) -> None:
        """Let the draft model guess."""
        if self._draft is None:
            return
        self._outbox.flush()
        self._step_started = time.monotonic()
        self._draft.write_on(self._scheduler.running, self._scheduler.most_guessed)

    def _recover(self, error: Exception) -> None:
        if self._runner.recover(error):
            self._scheduler.cache.forget()

    def _expire_waiting(self) -> None:
        waiting = self._scheduler.waiting
        oldest = time.monotonic() - self._queue_timeout_s
        while (first := next((each for each in waiting if not each.num_preemptions), None)) is not None:
            if first.enqueued_at >= oldest:
                break
            message = f"The request waited {self._queue_timeout_s:.0f} s for a free slot. Try again later."
            self._outbox.emit(first, Failed(RequestTimeoutError(message)))

    def _compute_one_by_one(self, plan: Plan) -> None:
        """A step failed: compute its requests alone, so that only the one at fault fails."""
        alone: dict[Request, list[tuple[Request, StepItem]]] = {}
        for request, item in plan:
            alone.setdefault(request.leader, []).append((request, item))
        for leader, part in alone.items():
            self._step_started = time.monotonic()
            try:
                self._executor.run(part)
            except Exception as exc:
                self._recover(exc)
                self._outbox.fail(leader, exc)

    def _fail_everything(self) -> None:
        with self._wake:
            error = self._closed_because or EngineUnavailableError("The engine stopped.")
            left = [*self._scheduler.running, *self._scheduler.waiting]
            self._scheduler.waiting.extend(self._inbox)
            left.extend(self._inbox)
            self._inbox.clear()
            calls, self._calls = (*self._due_calls, *self._calls), deque()
        for _, done in calls:
            done.set_exception(error)
        for request in left:
            if not request.leader.is_cancelled:
                self._outbox.emit(request.leader, Failed(error))
        self._outbox.flush()
