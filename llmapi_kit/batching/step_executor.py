"""One step of a planned batch: the forward pass, the tokens chosen from it, and the events that come of them.

Knows nothing of queues or threads. Engine thread only; called by the batching loop.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from llmapi_kit.batching.beam_search import BeamSearch, Candidate
from llmapi_kit.batching.counters import Counters
from llmapi_kit.batching.event_outbox import EventOutbox
from llmapi_kit.batching.output_processor import OutputProcessor
from llmapi_kit.batching.request import Request
from llmapi_kit.batching.scheduler import Scheduler, is_guess
from llmapi_kit.runners.base import Logits, Runner, StepItem
from llmapi_kit.sampling.logprobs import best_continuations, score
from llmapi_kit.sampling.masks import MaskWorker
from llmapi_kit.sampling.sampler import Sampled, sample
from llmapi_kit.types import Embedded

Plan = Sequence[tuple[Request, StepItem]]


class StepExecutor:
    """Computes steps of one runner.

    Args:
        runner: computes them.
        scheduler: is told what was computed.
        writer: makes events of tokens.
        outbox: takes the events.
        counters: counts tokens and latencies.
    """

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        writer: OutputProcessor,
        outbox: EventOutbox,
        counters: Counters,
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._writer = writer
        self._outbox = outbox
        self._counters = counters
        self._masks = MaskWorker()

    def close(self) -> None:
        """End what computes masks."""
        self._masks.close()

    def run(self, plan: Plan) -> None:
        """Compute the planned items as one step; raises before any request has changed, or not at all."""
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
                self._counters.stats.num_prompt_tokens += request.read(item.start + len(item.tokens))
            self._scheduler.computed(request, item)
        now = time.monotonic()
        for i, (request, choice) in enumerate(zip(wanting, sampled, strict=True)):
            self._advance(request, choice, now, masks.errors.get(i))
        has_guesses = any(request.proposer is not None for request, _ in plan)
        num_right = self._follow_guesses(plan, all_logits) if has_guesses else 0
        for search, candidates in searching.items():
            self._counters.observe(search.members[0], now)
            try:
                self._advance_beams(search, candidates)
            except Exception as exc:
                self._outbox.fail(search.members[0], exc)
        for request, _ in plan:
            if request.has_no_answer and not request.num_uncomputed_prompt:
                try:
                    self._end_without_answer(request)
                except Exception as exc:
                    self._outbox.fail(request, exc)
        if num_made := len(sampled) + num_right + sum(search.num_beams for search in searching):
            self._counters.count(num_made)

    def _advance(self, request: Request, choice: Sampled, now: float, error: Exception | None = None) -> None:
        """Give out what a request's next token makes of its answer; `error` is why its mask is missing."""
        self._counters.observe(request, now)
        try:
            if error is not None:
                raise error
            if request.matcher is not None:
                request.matcher.accept(choice.token_id)
            for event in self._writer.advance(request, choice):
                self._outbox.emit(request, event)
        except Exception as exc:
            self._outbox.fail(request, exc)

    def _follow_guesses(self, plan: Plan, logits: Logits) -> int:
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
                self._outbox.fail(request, exc)
            return
        now = time.monotonic()
        for request, choice in zip(requests, sampled, strict=True):
            self._advance(request, choice, now)
            if request.proposer is not None:
                request.proposer.extend(request.output_ids[-1:])

    def _learn(self, request: Request, num_guessed: int, num_right: int) -> None:
        self._counters.stats.num_guessed_tokens += num_guessed
        self._counters.stats.num_right_guesses += num_right
        if request.proposer is not None:
            request.proposer.learn(num_guessed, num_right)

    def _split_logits(self, plan: Plan, logits: Logits) -> tuple[Logits, dict[BeamSearch[Request], list[Candidate]]]:
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

    def _advance_beams(self, beams: BeamSearch[Request], candidates: Sequence[Candidate]) -> None:
        leader = beams.members[0]
        forks = beams.advance(candidates, self._writer.ending_ids(leader))
        if beams.is_over:
            for event in self._writer.hypotheses(leader, beams):
                self._outbox.emit(leader, event)
            return
        for source, target in forks:
            self._runner.copy_prefix(*self._scheduler.fork(source, target))

    def _end_without_answer(self, request: Request) -> None:
        """The prompt was all there was to compute."""
        if request.is_embedding and request.slot is not None:
            vector = tuple(self._runner.mean_state(request.slot))
            self._outbox.emit(request, Embedded(vector, len(request.prompt_ids), request.index))
            return
        for event in self._writer.begin(request):
            self._outbox.emit(request, event)
        self._outbox.emit(request, self._writer.finished(request, "length"))


def _is_right(request: Request, guessed: Sequence[int], depth: int) -> bool:
    """Whether a request goes on, and its latest token is the guess at `depth`."""
    return not request.is_done and depth < len(guessed) and request.output_ids[-1] == guessed[depth]


def _samples(request: Request, item: StepItem) -> bool:
    """Whether the request gets a token from this item's logits: not where they score, or go to a beam search."""
    if not item.wants_logits or request.beams is not None or request.has_no_answer:
        return False
    return item.start + len(item.tokens) >= len(request.prompt_ids)
