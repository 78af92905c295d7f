"""What is asked of simulated clusters: how well people are served, how many are, and what a lost zone costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from benchmarks.engine_costs import EngineCosts
from benchmarks.figures import median, percentile
from benchmarks.simulated_cluster import Record, Router, Talk, simulate
from benchmarks.simulated_replica import End, Limits

MAX_P99_S = 2.0  # of the first token; more is no service
UNDECIDED_S = 10.0  # at the end, when who asked may have no answer yet however well it goes
WINDOW_S = 10.0
FIRST_GUESS = 32
PRECISION = 0.02
ZONE_BACK_AFTER_S = 60.0

T = TypeVar("T", "Summary", "Loss")


@dataclass(frozen=True, slots=True)
class Summary:
    """Of a simulation.

    Attributes:
        p50_s: of the time to the first token.
        p99_s: the same.
        hit_rate: part of the prompts' tokens that was cached.
        refused: times that somebody was told to come back, for each question.
        tokens_per_s: of answers.
    """

    p50_s: float
    p99_s: float
    hit_rate: float
    refused: float
    tokens_per_s: float

    @property
    def is_good(self) -> bool:
        """Whether people are served well."""
        return self.p99_s <= MAX_P99_S and self.refused == 0


@dataclass(frozen=True, slots=True)
class Loss:
    """What a lost zone does.

    Attributes:
        broken: streams that ended in an error.
        again: requests that the cluster asked again.
        refused: times that somebody was told to come back.
        worst_p95_s: of the time to the first token, in the worst window.
        recovered_s: until it is for good what it has to be; infinite where that is not before the end.
    """

    broken: float
    again: float
    refused: float
    worst_p95_s: float
    recovered_s: float


@dataclass(frozen=True, slots=True)
class Study:
    """What the simulations of a report share.

    Attributes:
        costs: of an engine.
        limits: of a replica.
        talk: how people talk.
        warm_up_s: that is not looked at; a zone goes when it is over.
        measured_s: that is.
        repeats: with other random numbers.
    """

    costs: EngineCosts
    limits: Limits
    talk: Talk
    warm_up_s: float = 300.0
    measured_s: float = 600.0
    repeats: int = 3

    @property
    def until_s(self) -> float:
        """When a simulation ends."""
        return self.warm_up_s + self.measured_s

    def summary(self, num_people: int, num_replicas: int, router: Router) -> Summary:
        """Medians over the repeats."""
        return self._medians(lambda seed: self._summary(num_people, num_replicas, router, seed))

    def zone_loss(self, num_people: int, num_replicas: int, router: Router) -> Loss:
        """Medians over the repeats of what happens when a zone goes."""
        return self._medians(
            lambda seed: loss_of(
                self._run(num_people, num_replicas, router, seed, loses_zone=True), self.warm_up_s, self.until_s
            )
        )

    def most_people(self, num_replicas: int, router: Router, seed: int) -> int:
        """How many conversations each of so many replicas serves well, by bisection."""

        def is_good(each: int) -> bool:
            return self._summary(each * num_replicas, num_replicas, router, seed).is_good

        least, most = 0, FIRST_GUESS
        while is_good(most):
            least, most = most, 2 * most
        while most - least > max(1, PRECISION * most):
            middle = (least + most) // 2
            least, most = (middle, most) if is_good(middle) else (least, middle)
        return least

    def _medians(self, find: Callable[[int], T]) -> T:
        found = [find(seed) for seed in range(self.repeats)]
        names = [each.name for each in fields(found[0])]
        return replace(found[0], **{name: median([getattr(each, name) for each in found]) or 0.0 for name in names})

    def _summary(self, num_people: int, num_replicas: int, router: Router, seed: int) -> Summary:
        return summarize(self._run(num_people, num_replicas, router, seed), self.warm_up_s, self.until_s)

    def _run(
        self, num_people: int, num_replicas: int, router: Router, seed: int, *, loses_zone: bool = False
    ) -> Record:
        return simulate(
            num_people,
            num_replicas,
            costs=self.costs,
            limits=self.limits,
            talk=self.talk,
            router=router,
            seed=seed,
            until_s=self.until_s,
            zone_lost_at_s=self.warm_up_s if loses_zone else None,
            zone_back_after_s=ZONE_BACK_AFTER_S,
        )


def summarize(record: Record, since_s: float, until_s: float) -> Summary:
    """What came of the questions between; those that still wait count with how long they have."""
    asked = [each for each in record.questions if since_s <= each.asked_s <= until_s - UNDECIDED_S]
    begun = [each.request for each in asked if each.request is not None and each.request.first_token_s is not None]
    ttft_s = [each.ttft_s(until_s) for each in asked]
    done = [each.request for each in record.questions if each.end is End.DONE and since_s <= each.ended_s]
    return Summary(
        percentile(ttft_s, 50) or 0.0,
        percentile(ttft_s, 99) or 0.0,
        sum(each.cached_tokens for each in begun) / max(1, sum(each.prompt_tokens for each in begun)),
        sum(at_s >= since_s for at_s in record.refused_s) / max(1, len(asked)),
        sum(each.answer_tokens for each in done if each is not None) / (until_s - since_s),
    )


def loss_of(record: Record, lost_at_s: float, until_s: float) -> Loss:
    """What a record shows since a zone went."""
    windows: dict[int, list[float]] = {}
    for each in record.questions:
        if lost_at_s <= each.asked_s <= until_s - UNDECIDED_S:
            windows.setdefault(int((each.asked_s - lost_at_s) / WINDOW_S), []).append(each.ttft_s(until_s))
    p95s = {at: percentile(ttft_s, 95) or 0.0 for at, ttft_s in windows.items()}
    recovered_s = _last_bad(p95s) * WINDOW_S
    return Loss(
        sum(each.end is End.BROKEN for each in record.questions),
        len(record.again_s),
        sum(at_s >= lost_at_s for at_s in record.refused_s),
        max(p95s.values(), default=math.inf),
        recovered_s if recovered_s < until_s - lost_at_s - UNDECIDED_S else math.inf,
    )


def _last_bad(p95s: dict[int, float]) -> int:
    """How many windows from the beginning there are until the last one in which people were not served well."""
    bad: Sequence[int] = [at for at, seconds in p95s.items() if seconds > MAX_P99_S]
    return max(bad) + 1 if bad else 0
