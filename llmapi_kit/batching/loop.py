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

from llmapi_kit.batching.beam_search import BeamSearch, Candidate
from llmapi_kit.batching.draft_model import DraftModel
from llmapi_kit.batching.output_processor import OutputProcessor, TokenBytes
from llmapi_kit.batching.request import Request
from llmapi_kit.batching.scheduler import Scheduler, is_guess
from llmapi_kit.errors import EngineUnavailableError, GenerationError, QueueFullError, RequestError, RequestTimeoutError
from llmapi_kit.runners.base import Logits, PagedRunner, Runner, StepItem
from llmapi_kit.sampling.logprobs import best_continuations, score
from llmapi_kit.sampling.masks import MaskWorker
from llmapi_kit.sampling.sampler import sample
from llmapi_kit.turns import take_turns_sooner
from llmapi_kit.types import Delta, Embedded, EngineStats, Event, Failed, Finished, Readiness

logger = logging.getLogger(__name__)

Outbox = list[tuple[Request, Event]]
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
        deliver: Callable[[Outbox], None],
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
        self._deliver = deliver
        self._writer = OutputProcessor(eos_ids, token_bytes)
        self._masks = MaskWorker()
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
        self._kv_tokens = paged.num_pages * paged.page_size if paged else runner.num_slots * runner.max_length
        self._wake = threading.Condition()
        self._inbox: deque[Request] = deque()
        self._calls: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._due_calls: deque[tuple[Callable[[], None], Future[None]]] = deque()
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
        now = time.monotonic()
        counted = [(at, num) for at, num in tuple(self._throughput) if now - at <= 10]
        span = max(1.0, now - counted[0][0]) if counted else 1.0
        cache = self._scheduler.cache
        return replace(
            self._stats,
            num_prompt_tokens=self._stats.num_prompt_tokens + cache.num_hit_tokens,
            num_cached_tokens=cache.num_hit_tokens,
            kv_use=cache.num_tokens / self._kv_tokens,
            num_preemptions=self._scheduler.num_preemptions,
            ttft=self._stats.ttft.copy(),
            inter_token=self._stats.inter_token.copy(),
            num_running=sum(request.leader is request for request in tuple(self._scheduler.running)),
            num_queued=len(self._inbox) + len(self._scheduler.waiting),
            tokens_per_s=sum(num for _, num in counted) / span,
        )

    def has_room(self, num_sequences: int, length: int) -> bool:
        """Whether so many sequences of this length can be held at once."""
        return self._scheduler.has_room(num_sequences, length)

    # On the loop's thread

    def _run(self) -> None:
        take_turns_sooner()
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
            self._masks.close()
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
                    self._retire(request)
                    self._stats.num_cancelled += 1
                # Only now: what a call takes away is used no more by requests that were cancelled before it
                self._due_calls, self._calls = self._calls, deque()
                if self._due_calls or self._scheduler.running:
                    return True
                if self._scheduler.waiting:
                    if was_idle and self._is_burst_possible() and self._wake.wait(BURST_GAP_S):
                        continue
                    return True
                self._flush()
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
        self._flush()  # now, with little left to do in Python: whoever gets them wants the GIL at once
        self._step_started = started = time.monotonic()
        try:
            self._compute(plan)
            num_tokens, seconds = sum(len(item.tokens) for _, item in plan), time.monotonic() - started
            self._scheduler.record_step(num_tokens, seconds)
            if self._draft is not None and all(item.start >= len(request.prompt_ids) for request, item in plan):
                self._draft.checked(num_tokens, seconds)
        except Exception as exc:
            self._recover(exc)
            if all(request.leader is plan[0][0].leader for request, _ in plan):
                self._fail(plan[0][0], exc)
            else:
                self._compute_one_by_one(plan)

    def _write_ahead(self) -> None:
        """Let the draft model guess."""
        if self._draft is None:
            return
        self._flush()
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
            self._emit(first, Failed(RequestTimeoutError(message)))

    def _compute(self, plan: Sequence[tuple[Request, StepItem]]) -> None:
        """Run the planned items as one step; raises before any request has changed, or not at all."""
        wanting = [request for request, item in plan if _samples(request, item)]
        job = self._masks.start([request.matcher for request in wanting])
        try:
            logits = self._runner.step([item for _, item in plan])
        finally:
            masks = job.wait()
        all_logits = logits
        searching: dict[BeamSearch[Request], list[Candidate]] = {}
        if len(wanting) != len(logits):
            logits, searching = self._split_logits(plan, logits)
        sampled = sample(logits, [request.row for request in wanting], masks) if wanting else []
        for request, item in plan:
            if item.start < len(request.prompt_ids):
                self._stats.num_prompt_tokens += request.read(item.start + len(item.tokens))
            self._scheduler.computed(request, item)
        now = time.monotonic()
        for i, (request, choice) in enumerate(zip(wanting, sampled, strict=True)):
            self._observe(request, now)
            try:
                if i in masks.errors:
                    raise masks.errors[i]
                if request.matcher is not None:
                    request.matcher.accept(choice.token_id)
                for event in self._writer.advance(request, choice):
                    self._emit(request, event)
            except Exception as exc:
                self._fail(request, exc)
        has_guesses = any(request.proposer is not None for request, _ in plan)
        num_right = self._follow_guesses(plan, all_logits) if has_guesses else 0
        for beams, candidates in searching.items():
            self._observe(beams.members[0], now)
            try:
                self._advance_beams(beams, candidates)
            except Exception as exc:
                self._fail(beams.members[0], exc)
        for request, _ in plan:
            if request.has_no_answer and not request.num_uncomputed_prompt:
                try:
                    self._end_without_answer(request)
                except Exception as exc:
                    self._fail(request, exc)
        if num_made := len(sampled) + num_right + sum(beams.num_beams for beams in searching):
            self._count(num_made)

    def _follow_guesses(self, plan: Sequence[tuple[Request, StepItem]], logits: Logits) -> int:
        """Go on with requests whose next tokens were computed already, as they were guessed; how many that gave.

        Each token is chosen as always, from the logits after what stands before it. So the answers are the same, or as
        likely, as without guesses; a guess that is not what was chosen only ends this.
        """
        following: list[tuple[Request, int, Sequence[int]]] = []
        end = 0
        for request, item in plan:
            start, end = end, end + (len(item.tokens) if item.wants_every else 1 if item.wants_logits else 0)
            if request.proposer is not None and _samples(request, item):
                request.proposer.extend(request.output_ids[-1:])
            if is_guess(request, item):
                following.append((request, start, item.tokens[1:]))
        num_made, depth = 0, 0
        while following:
            going = [each for each in following if _is_right(each[0], each[2], depth)]
            for request, _, guessed in (each for each in following if each not in going):
                self._learn(request, len(guessed), depth)
            for request, _, guessed in going:
                self._scheduler.confirm(request, guessed[depth])
            depth += 1
            if going:
                num_made += len(going)
                self._choose(going, logits, depth)
            following = going
        return num_made

    def _choose(self, going: Sequence[tuple[Request, int, Sequence[int]]], logits: Logits, depth: int) -> None:
        """Choose the next token of requests from the logits `depth` rows after their first."""
        requests = [request for request, _, _ in going]
        try:
            sampled = sample(logits[[first + depth for _, first, _ in going]], [request.row for request in requests])
        except Exception as exc:
            for request in requests:
                self._fail(request, exc)
            return
        now = time.monotonic()
        for request, choice in zip(requests, sampled, strict=True):
            self._observe(request, now)
            try:
                for event in self._writer.advance(request, choice):
                    self._emit(request, event)
            except Exception as exc:
                self._fail(request, exc)
            if request.proposer is not None:
                request.proposer.extend(request.output_ids[-1:])

    def _learn(self, request: Request, num_guessed: int, num_right: int) -> None:
        self._stats.num_guessed_tokens += num_guessed
        self._stats.num_right_guesses += num_right
        if request.proposer is not None:
            request.proposer.learn(num_guessed, num_right)

    def _split_logits(
        self, plan: Sequence[tuple[Request, StepItem]], logits: Logits
    ) -> tuple[Logits, dict[BeamSearch[Request], list[Candidate]]]:
        """Of a step that holds more than plain requests: the logits to sample from, and how searches go on."""
        rows: list[int] = []
        of_beam: dict[Request, int] = {}
        end = 0
        for request, item in plan:
            if not item.wants_logits:
                continue
            start, end = end, end + (len(item.tokens) if item.wants_every else 1)
            if is_guess(request, item):
                rows.append(start)
                continue
            if item.wants_every:  # the logits after a token are about the next one
                targets = request.prompt_ids[item.start + 1 : item.start + 1 + len(item.tokens)]
                scored = score(logits[start : start + len(targets)], targets, request.params.logprobs or 0)
                request.prompt_scores.update(enumerate(scored, start=item.start + 1))
            if request.beams is not None:
                of_beam[request] = end - 1
            elif _samples(request, item):
                rows.append(end - 1)
        searching: dict[BeamSearch[Request], list[Candidate]] = {}
        for beams in {request.beams: None for request in of_beam if request.beams is not None}:
            num = beams.num_candidates(len(self._writer.ending_ids(beams.members[0])))
            lines = logits[[of_beam[request] for request in beams.running]]
            searching[beams] = [Candidate(*found) for found in best_continuations(lines, beams.scores, num)]
        return logits[rows], searching

    def _compute_one_by_one(self, plan: Sequence[tuple[Request, StepItem]]) -> None:
        """A step failed: compute its requests alone, so that only the one at fault fails."""
        alone: dict[Request, list[tuple[Request, StepItem]]] = {}
        for request, item in plan:
            alone.setdefault(request.leader, []).append((request, item))
        for leader, part in alone.items():
            self._step_started = time.monotonic()
            try:
                self._compute(part)
            except Exception as exc:
                self._recover(exc)
                self._fail(leader, exc)

    def _observe(self, request: Request, now: float) -> None:
        if request.last_token_at:
            self._stats.inter_token.observe(now - request.last_token_at)
        else:
            self._stats.ttft.observe(now - request.enqueued_at)
        request.last_token_at = now

    def _advance_beams(self, beams: BeamSearch[Request], candidates: Sequence[Candidate]) -> None:
        leader = beams.members[0]
        forks = beams.advance(candidates, self._writer.ending_ids(leader))
        if beams.is_over:
            for event in self._writer.hypotheses(leader, beams):
                self._emit(leader, event)
            return
        for source, target in forks:
            self._runner.copy_prefix(*self._scheduler.fork(source, target))

    def _end_without_answer(self, request: Request) -> None:
        """The prompt was all there was to compute."""
        if request.is_embedding and request.slot is not None:
            vector = tuple(self._runner.mean_state(request.slot))
            self._emit(request, Embedded(vector, len(request.prompt_ids), request.index))
            return
        for event in self._writer.begin(request):
            self._emit(request, event)
        self._emit(request, self._writer.finished(request, "length"))

    def _fail(self, request: Request, exc: Exception) -> None:
        request = request.leader
        if isinstance(exc, RequestError):
            self._emit(request, Failed(exc))
            return
        logger.error("Request %s failed in the model", request.id, exc_info=exc)
        message = f"The model failed on this request: {type(exc).__name__}: {exc}"
        self._emit(request, Failed(GenerationError(message)))

    def _emit(self, request: Request, event: Event) -> None:
        """Hand out an event; after its last one a request is over and its slots are free."""
        if request.is_done:
            return
        self._outbox.append((request, event))
        if isinstance(event, Delta):
            return
        if isinstance(event, Failed):
            self._stats.num_failed += 1
        elif isinstance(event, Finished | Embedded):
            if event.index < request.last_index:
                return
            self._stats.num_finished += 1
        else:
            return
        self._retire(request)

    def _retire(self, request: Request) -> None:
        for member in request.beams.members if request.beams else (request,):
            member.is_done = True
            if member is not request and member.slot is None:
                continue  # a beam of a search that still waits
            slot = self._scheduler.remove(member)
            if slot is not None:
                self._runner.free(slot)
                if self._draft is not None:
                    self._draft.free(slot)

    def _flush(self) -> None:
        """Give the events of the last step away."""
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
            calls, self._calls = (*self._due_calls, *self._calls), deque()
        for _, done in calls:
            done.set_exception(error)
        for request in left:
            if not request.leader.is_cancelled:
                self._emit(request.leader, Failed(error))
        self._flush()

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


def _is_right(request: Request, guessed: Sequence[int], depth: int) -> bool:
    """Whether a request goes on, and its latest token is the guess at `depth`."""
    return not request.is_done and depth < len(guessed) and request.output_ids[-1] == guessed[depth]


def _samples(request: Request, item: StepItem) -> bool:
    """Whether the request gets a token from this item's logits: not where they score, or go to a beam search."""
    if not item.wants_logits or request.beams is not None or request.has_no_answer:
        return False
    return item.start + len(item.tokens) >= len(request.prompt_ids)
