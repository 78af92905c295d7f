"""Beam search over slots: which hypotheses go on, in which slot, and when the search is over.

Pure bookkeeping over candidates that the sampler found; knows nothing of tensors, tokenizers or events. Each beam is a
request with a slot of its own, so that the scheduler computes it like any other; the first of them, the leader, is the
one that was submitted. Engine thread only.

Source: the search is the one of transformers' `generate` with `early_stopping=False`, so that both find the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


@dataclass(frozen=True, slots=True)
class Candidate:
    """A continuation: the sum of its log-probabilities, the beam it continues, and the token it adds."""

    score: float
    beam: int
    token_id: int


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A complete answer: log-probability by length, ids with the one that ended it, and whether one did."""

    score: float
    token_ids: Sequence[int]
    is_ended: bool


class Member(Protocol):
    """What a search needs of a request; see `llmapi_kit.batching.request.Request`."""

    max_new_tokens: int
    num_computed: int
    output_ids: list[int]
    is_parked: bool

    def sibling(self: T) -> T:
        """Another request for the same prompt, which waits in its slot."""
        ...


T = TypeVar("T", bound=Member)


@dataclass(slots=True)
class _Beam(Generic[T]):
    request: T
    score: float
    token_ids: list[int] = field(default_factory=list)


class BeamSearch(Generic[T]):
    """One search.

    Args:
        num_beams: hypotheses kept at each step; at least 2.
        num_answers: how many of the best are wanted; at most num_beams.
        length_penalty: an answer's log-probability is divided by its length to the power of this; above 0 it favours
            long answers.

    Attributes:
        members: one request a beam, the leader first; empty until `begin`.
    """

    def __init__(self, num_beams: int, num_answers: int = 1, *, length_penalty: float = 1.0) -> None:
        self.num_beams = num_beams
        self.num_answers = num_answers
        self._length_penalty = length_penalty
        self.members: list[T] = []
        self._beams: list[_Beam[T]] = []
        self._finished: list[Hypothesis] = []

    def begin(self, leader: T) -> None:
        """Start from the prompt, which the leader will compute; the others wait in their slots until they fork."""
        self.members = [leader]
        self.members += [leader.sibling() for _ in range(self.num_beams - 1)]
        self._beams = [_Beam(leader, 0.0)]

    @property
    def running(self) -> list[T]:
        """The requests that hold a hypothesis, in the order in which `advance` counts them."""
        return [beam.request for beam in self._beams]

    @property
    def scores(self) -> list[float]:
        """Sum of the log-probabilities of each, in the same order."""
        return [beam.score for beam in self._beams]

    def num_candidates(self, num_ending: int) -> int:
        """How many of the best continuations `advance` needs, so that enough are left whatever ends."""
        return max(2, 1 + num_ending) * self.num_beams

    def advance(self, candidates: Sequence[Candidate], ending_ids: Collection[int]) -> list[tuple[T, T]]:
        """Take the best continuations, best first.

        Returns:
            (source, target) of each request whose KV memory is to be copied before the next step.
        """
        length = len(self._beams[0].token_ids) + 1
        is_last = length >= self.members[0].max_new_tokens
        going_on: list[Candidate] = []
        for rank, candidate in enumerate(candidates):
            ends = candidate.token_id in ending_ids
            if not (ends or is_last):
                going_on.append(candidate)
            elif rank < self.num_beams:  # what is behind them is there to replace those that ended
                token_ids = [*self._beams[candidate.beam].token_ids, candidate.token_id]
                self._finished.append(Hypothesis(self._rank(candidate.score, length), token_ids, ends))
        self._finished = sorted(self._finished, key=lambda each: each.score, reverse=True)[: self.num_beams]
        return self._fork(going_on[: self.num_beams])

    @property
    def is_over(self) -> bool:
        """Whether nothing goes on, or nothing that does can still be better than what is complete."""
        if not self._beams:
            return True
        length = len(self._beams[0].token_ids)
        best = self._rank(self._beams[0].score, length) if length else 0.0
        return len(self._finished) == self.num_beams and best <= self._finished[-1].score

    def answers(self) -> list[Hypothesis]:
        """The best complete answers, best first."""
        return self._finished[: self.num_answers]

    def _rank(self, score: float, length: int) -> float:
        return float(score / length**self._length_penalty)

    def _fork(self, going_on: Sequence[Candidate]) -> list[tuple[T, T]]:
        """Give each continuation a request: its parent's own, or, where that is taken, one whose beam has died."""
        parents = {id(self._beams[candidate.beam].request) for candidate in going_on}
        idle = [member for member in self.members if id(member) not in parents]
        taken: set[int] = set()
        copies: list[tuple[T, T]] = []
        beams: list[_Beam[T]] = []
        for candidate in going_on:
            parent = self._beams[candidate.beam]
            request = parent.request
            if id(request) in taken:
                request = idle.pop(0)
                copies.append((parent.request, request))
            taken.add(id(request))
            beams.append(_Beam(request, candidate.score, [*parent.token_ids, candidate.token_id]))
        for source, target in copies:
            target.num_computed = source.num_computed
        for beam in beams:
            beam.request.output_ids = beam.token_ids
            beam.request.is_parked = False
        for member in idle:
            member.is_parked = True
        self._beams = beams
        return copies
