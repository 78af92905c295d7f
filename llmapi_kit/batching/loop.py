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
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from llmapi_kit.batching.request import Request
from llmapi_kit.batching.scheduler import Scheduler
from llmapi_kit.errors import EngineUnavailableError, GenerationError, QueueFullError, RequestError, RequestTimeoutError
from llmapi_kit.runners.base import Runner, StepItem
from llmapi_kit.sampling.sampler import Sampled, sample
from llmapi_kit.types import Delta, EngineStats, Event, Failed, Finished, FinishReason, Readiness, TokenLogprob

logger = logging.getLogger(__name__)

Outbox = list[tuple[Request, Event]]
STALLED_AFTER_S = 30.0


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
        name: of the thread.
    """

    def __init__(
        self,
        runner: Runner,
        deliver: Callable[[Outbox], None],
        *,
        eos_ids: frozenset[int] = frozenset(),
        token_bytes: Callable[[int], bytes] = lambda token_id: b"",
        max_queue: int = 128,
        step_tokens: int = 512,
        max_stall_s: float = 0.2,
        queue_timeout_s: float = 60.0,
        has_prefix_cache: bool = True,
        name: str = "llmapi_kit engine",
    ) -> None:
        self._runner = runner
        self._deliver = deliver
        self._eos_ids = eos_ids
        self._token_bytes = token_bytes
        self._max_queue = max_queue
        self._queue_timeout_s = queue_timeout_s
        self._scheduler = Scheduler(
            runner.num_slots, step_tokens, max_stall_s=max_stall_s, has_prefix_cache=has_prefix_cache
        )
        self._wake = threading.Condition()
        self._inbox: deque[Request] = deque()
        self._outbox: Outbox = []
        self._closed_because: RequestError | None = None
        self._step_started: float | None = None
        self._stats = EngineStats(num_slots=runner.num_slots)
        self._throughput: deque[tuple[float, int]] = deque()
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
            if num_waiting + len(requests) > self._max_queue:
                raise QueueFullError(
                    f"{num_waiting} requests already wait for this model (the limit is {self._max_queue}). "
                    "Try again in a moment.",
                    retry_after_s=1,
                )
            self._inbox.extend(requests)
            self._wake.notify()

    def abort(self, request: Request) -> None:
        """Stop a request whose consumer left; its slot is free before the next step. It gets no more events."""
        with self._wake:
            request.is_cancelled = True
            self._wake.notify()

    def close(self, timeout_s: float = 10.0) -> bool:
        """End the thread; requests still there fail with `EngineUnavailableError`. Safe to call twice.

        Returns:
            Whether the thread ended in time; False means a step still hangs in the model.
        """
        with self._wake:
            if self._closed_because is None:
                self._closed_because = EngineUnavailableError("The model was unloaded.")
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

    def stats(self) -> EngineStats:
        """A snapshot of the counters."""
        now = time.monotonic()
        counted = [(at, num) for at, num in tuple(self._throughput) if now - at <= 10]
        span = max(1.0, now - counted[0][0]) if counted else 1.0
        cache = self._scheduler.cache
        return replace(
            self._stats,
            num_prompt_tokens=self._stats.num_prompt_tokens + cache.num_hit_tokens,
            num_cached_tokens=cache.num_hit_tokens,
            kv_use=cache.num_tokens / (self._runner.num_slots * self._runner.max_length),
            ttft=self._stats.ttft.copy(),
            inter_token=self._stats.inter_token.copy(),
            num_running=len(self._scheduler.running),
            num_queued=len(self._inbox) + len(self._scheduler.waiting),
            tokens_per_s=sum(num for _, num in counted) / span,
        )

    # On the loop's thread

    def _run(self) -> None:
        try:
            self._runner.start()
            while self._take_in():
                self._step()
                self._hand_over()
        except BaseException as exc:
            logger.exception("The engine's thread died")
            with self._wake:
                self._closed_because = EngineUnavailableError(f"The engine died: {type(exc).__name__}: {exc}")
        finally:
            self._fail_everything()
            self._runner.close()

    def _take_in(self) -> bool:
        """Move new requests to the scheduler and drop cancelled ones; sleeps while idle. False to end."""
        with self._wake:
            while True:
                if self._closed_because is not None:
                    return False
                while self._inbox:
                    self._scheduler.add(self._inbox.popleft())
                for request in [r for r in (*self._scheduler.running, *self._scheduler.waiting) if r.is_cancelled]:
                    self._retire(request)
                    self._stats.num_cancelled += 1
                if self._scheduler.running or self._scheduler.waiting:
                    return True
                self._wake.wait()

    def _step(self) -> None:
        self._expire_waiting()
        for source, target, length in self._scheduler.admit():
            self._runner.copy_prefix(source, target, length)
        plan = self._scheduler.schedule()
        self._step_started = time.monotonic()
        try:
            self._compute(plan)
            num_tokens = sum(len(item.tokens) for _, item in plan)
            self._scheduler.took(num_tokens, time.monotonic() - self._step_started)
        except Exception as exc:
            self._runner.recover(exc)
            if len(plan) == 1:
                self._fail(plan[0][0], exc)
            else:
                self._compute_one_by_one(plan)
        finally:
            self._step_started = None

    def _expire_waiting(self) -> None:
        waiting = self._scheduler.waiting
        oldest = time.monotonic() - self._queue_timeout_s
        while waiting and waiting[0].enqueued_at < oldest:
            message = f"The request waited {self._queue_timeout_s:.0f} s for a free slot. Try again later."
            self._end(waiting[0], Failed(RequestTimeoutError(message)))

    def _compute(self, plan: Sequence[tuple[Request, StepItem]]) -> None:
        """Run the planned items as one step; raises before any request has changed, or not at all."""
        logits = self._runner.step([item for _, item in plan])
        wanting = [request for request, item in plan if item.wants_logits]
        sampled = sample(logits, [request.row for request in wanting]) if wanting else []
        for request, item in plan:
            if request.num_uncomputed_prompt:
                self._stats.num_prompt_tokens += len(item.tokens)
            self._scheduler.computed(request, item)
        now = time.monotonic()
        for request, choice in zip(wanting, sampled, strict=True):
            if request.last_token_at:
                self._stats.inter_token.observe(now - request.last_token_at)
            else:
                self._stats.ttft.observe(now - request.enqueued_at)
            request.last_token_at = now
            try:
                self._advance(request, choice)
            except Exception as exc:
                self._fail(request, exc)
        if sampled:
            self._count(len(sampled))

    def _compute_one_by_one(self, plan: Sequence[tuple[Request, StepItem]]) -> None:
        """A step failed: compute its requests alone, so that only the one at fault fails."""
        for request, item in plan:
            try:
                self._compute([(request, item)])
            except Exception as exc:
                self._runner.recover(exc)
                self._fail(request, exc)

    def _fail(self, request: Request, exc: Exception) -> None:
        logger.error("Request %s failed in the model", request.id, exc_info=exc)
        message = f"The model failed on this request: {type(exc).__name__}: {exc}"
        self._end(request, Failed(GenerationError(message)))

    def _advance(self, request: Request, choice: Sampled) -> None:
        """Take a new token: text, stop conditions, events."""
        request.output_ids.append(choice.token_id)
        params = request.params
        ends = choice.token_id in params.stop_token_ids or (choice.token_id in self._eos_ids and not params.ignore_eos)
        reason: FinishReason | None = "stop" if ends else None
        text = ""
        if not ends:
            text, is_stopped = request.stops.feed(request.detokenizer.feed(choice.token_id))
            reason = "stop" if is_stopped else "length" if request.is_at_limit else None
        if reason is None or (reason == "stop" and not ends):
            tail = ""
        else:
            tail, is_stopped = request.stops.feed(request.detokenizer.flush())
            if is_stopped:
                reason = "stop"
            else:
                tail += request.stops.flush()
        logprobs = () if choice.logprob is None else (self._logprob(choice),)
        if not ends or text or tail:
            self._outbox.append(
                (request, Delta(text + tail, 0 if ends else 1, () if ends else logprobs, request.index))
            )
        if reason is not None:
            num_prompt, num_made = len(request.prompt_ids), len(request.output_ids)
            self._end(request, Finished(reason, num_prompt, num_made, request.num_cached, request.index))

    def _logprob(self, choice: Sampled) -> TokenLogprob:
        def entry(token_id: int, logprob: float) -> TokenLogprob:
            raw = self._token_bytes(token_id)
            return TokenLogprob(token_id, raw.decode("utf-8", errors="replace"), raw, logprob)

        top = tuple(entry(token_id, logprob) for token_id, logprob in choice.top)
        own = entry(choice.token_id, choice.logprob or 0.0)
        return TokenLogprob(own.token_id, own.text, own.raw, own.logprob, top)

    def _end(self, request: Request, event: Finished | Failed) -> None:
        """Give out the terminal event, once, and free the slot."""
        if request.is_done:
            return
        if isinstance(event, Finished):
            self._stats.num_finished += 1
        else:
            self._stats.num_failed += 1
        self._outbox.append((request, event))
        self._retire(request)

    def _retire(self, request: Request) -> None:
        request.is_done = True
        slot = self._scheduler.remove(request)
        if slot is not None:
            self._runner.free(slot)

    def _hand_over(self) -> None:
        outbox, self._outbox = self._outbox, []
        if outbox:
            self._deliver(outbox)

    def _fail_everything(self) -> None:
        with self._wake:
            error = self._closed_because or EngineUnavailableError("The engine stopped.")
            left = [*self._scheduler.running, *self._scheduler.waiting]
            self._scheduler.waiting.extend(self._inbox)
            left.extend(self._inbox)
            self._inbox.clear()
        for request in left:
            if not request.is_cancelled:
                self._end(request, Failed(error))
        self._hand_over()

    def _count(self, num_tokens: int) -> None:
        self._stats.num_completion_tokens += num_tokens
        now = time.monotonic()
        if self._throughput and now - self._throughput[-1][0] < 0.5:
            at, num = self._throughput[-1]
            self._throughput[-1] = at, num + num_tokens
        else:
            self._throughput.append((now, num_tokens))
            while now - self._throughput[0][0] > 10:
                self._throughput.popleft()
