"""Replicas behind a router in simulated time, and people who talk to them.

Each of a fixed number of people writes, reads the answer, thinks and writes again, until the conversation ends and
another begins. A person is told to come back where the cluster is full, and asks again where an answer broke off.
Each has random numbers of their own, so two runs that differ in the router ask the same.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import simpy

from benchmarks.engine_costs import EngineCosts
from benchmarks.simulated_replica import End, Limits, Replica, Request, Steps

MUCH_MORE = 4  # as in llmapi_kit.engines.prefix_affinity
ZONES = 3

Router = Callable[[Sequence[Replica], "Replica | None", random.Random], Replica]


def at_random(replicas: Sequence[Replica], home: Replica | None, numbers: random.Random) -> Replica:
    """Any."""
    return numbers.choice(replicas)


def least_loaded(replicas: Sequence[Replica], home: Replica | None, numbers: random.Random) -> Replica:
    """One with the fewest requests."""
    least = min(replica.num_requests for replica in replicas)
    return numbers.choice([replica for replica in replicas if replica.num_requests == least])


def by_prefix(much_more: int = MUCH_MORE) -> Router:
    """Where the conversation's last turn was, unless that has so many requests more than the least busy one."""

    def choose(replicas: Sequence[Replica], home: Replica | None, numbers: random.Random) -> Replica:
        least = min(replica.num_requests for replica in replicas)
        if home is not None and home.num_requests <= least + much_more and home in replicas:
            return home
        return least_loaded(replicas, home, numbers)

    return choose


@dataclass(frozen=True, slots=True)
class Talk:
    """How people talk; lengths in tokens. Lognormal, so a few turns are many times as long as most.

    Attributes:
        think_s: median time between an answer's end and the next question.
        think_sigma: of its logarithm.
        message: median length of a question.
        answer: median length of an answer.
        sigma: of the logarithm of both.
        max_answer: where an answer ends at the latest.
        mean_turns: of a conversation; their number is geometric.
        system: the prompt that all conversations begin with.
        context: most tokens of a conversation; a longer one ends.
        retry_s: after which who was told to come back does.
    """

    think_s: float = 30.0
    think_sigma: float = 0.8
    message: int = 30
    answer: int = 120
    sigma: float = 1.0
    max_answer: int = 2048
    mean_turns: float = 8.0
    system: int = 400
    context: int = 8192
    retry_s: float = 2.0

    def next_think_s(self, numbers: random.Random) -> float:
        """How long somebody thinks."""
        return self.think_s * math.exp(numbers.gauss(0, self.think_sigma))

    def next_length(self, median: int, numbers: random.Random) -> int:
        """How long a message or an answer gets."""
        return max(1, min(self.max_answer, round(median * math.exp(numbers.gauss(0, self.sigma)))))

    def next_turns(self, numbers: random.Random) -> int:
        """How many turns a conversation has."""
        return 1 + int(math.log(1 - numbers.random()) / math.log(1 - 1 / self.mean_turns))


@dataclass(slots=True)
class Question:
    """A turn as the person sees it, whoever answers. Times in seconds, of the simulation.

    Attributes:
        asked_s: when it was asked first.
        request: the one that was taken last; None where the cluster was full so far.
        end: how it ended; None while it goes on.
        ended_s: when.
    """

    asked_s: float
    request: Request | None = None
    end: End | None = None
    ended_s: float = math.inf

    def ttft_s(self, now_s: float) -> float:
        """From the question to the first token, or until now where none came; times of coming back included."""
        first_s = None if self.request is None else self.request.first_token_s
        return (now_s if first_s is None else first_s) - self.asked_s


@dataclass(slots=True)
class Record:
    """What happened.

    Attributes:
        questions: each once.
        refused_s: when somebody was told to come back.
        again_s: when the cluster itself asked again what a replica had lost.
    """

    questions: list[Question] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    again_s: list[float] = field(default_factory=list)


class Cluster:
    """See the module.

    Args:
        env: the simulation.
        num_replicas: spread over the zones in turn.
        costs: of each.
        limits: of each.
        router: chooses among those that have room.
        seed: of the router's random numbers.

    Attributes:
        replicas: that are there.
        record: of what happened.
    """

    def __init__(
        self,
        env: simpy.Environment,
        num_replicas: int,
        costs: EngineCosts,
        limits: Limits,
        router: Router = least_loaded,
        seed: int = 0,
    ) -> None:
        self.record = Record()
        self._env, self._costs, self._limits, self._router = env, costs, limits, router
        self._numbers = random.Random(seed)
        self.replicas = [Replica(env, costs, limits, number % ZONES) for number in range(num_replicas)]
        self._homes: dict[int, Replica] = {}

    def choose(self, conversation: int) -> Replica | None:
        """The replica for a conversation's next turn; None where all are full."""
        open_ones = [replica for replica in self.replicas if replica.has_room]
        if not open_ones:
            return None
        replica = self._homes[conversation] = self._router(open_ones, self._homes.get(conversation), self._numbers)
        return replica

    def had(self, conversation: int, num_tokens: int) -> None:
        """A replica has computed so much of a conversation before the simulation began."""
        replica = self._homes[conversation] = self._numbers.choice(self.replicas)
        replica.cache.keep(conversation, num_tokens)

    def forget(self, conversation: int) -> None:
        """It is over."""
        self._homes.pop(conversation, None)

    def lose_zone(self, zone: int, at_s: float, back_after_s: float) -> Steps:
        """At that time all replicas of a zone die; as many start elsewhere, and are there after a while."""
        yield self._env.timeout(at_s)
        lost = [replica for replica in self.replicas if replica.zone == zone]
        self.replicas = [replica for replica in self.replicas if replica.zone != zone]
        for replica in lost:
            replica.die()
        yield self._env.timeout(back_after_s)
        self.replicas += [Replica(self._env, self._costs, self._limits, (zone + 1) % ZONES) for _ in lost]

    def ask(self, conversation: int, prompt: int, answer: int, talk: Talk) -> Generator[simpy.Event, None, bool]:
        """Ask until there is an answer, or one broke off; returns whether it was whole."""
        question = Question(self._env.now)
        self.record.questions.append(question)
        while question.end is None:
            yield self._env.timeout(self._costs.overhead_s)
            replica = self.choose(conversation)
            if replica is None:
                self.record.refused_s.append(self._env.now)
                yield self._env.timeout(talk.retry_s)
                continue
            question.request = Request(conversation, prompt, answer, self._env.event(), shared_tokens=talk.system)
            replica.submit(question.request)
            end = yield question.request.ended
            if end is End.AGAIN:
                self.record.again_s.append(self._env.now)
            else:
                question.end, question.ended_s = end, self._env.now
        return question.end is End.DONE

    def person(self, number: int, talk: Talk, seed: int) -> Steps:
        """Somebody who talks for ever, met in the middle of a conversation."""
        numbers = random.Random(f"{seed} {number}")
        conversation, context, left = number, talk.system, talk.next_turns(numbers)
        for _ in range(talk.next_turns(numbers) - 1):
            context += talk.next_length(talk.message, numbers) + talk.next_length(talk.answer, numbers)
        self.had(conversation, context)
        yield self._env.timeout(numbers.random() * 2 * talk.think_s)
        while True:
            message, answer = talk.next_length(talk.message, numbers), talk.next_length(talk.answer, numbers)
            if left == 0 or context + message + answer > talk.context:
                self.forget(conversation)
                conversation, context, left = conversation + 1_000_000_000, talk.system, talk.next_turns(numbers)
            if (yield from self.ask(conversation, context + message, answer, talk)):
                context += message + answer
            left -= 1
            yield self._env.timeout(talk.next_think_s(numbers))


def simulate(
    num_people: int,
    num_replicas: int,
    *,
    costs: EngineCosts,
    until_s: float,
    limits: Limits | None = None,
    talk: Talk | None = None,
    router: Router = least_loaded,
    seed: int = 0,
    zone_lost_at_s: float | None = None,
    zone_back_after_s: float = 60.0,
) -> Record:
    """Let people talk to a cluster for a while.

    Args:
        num_people: each with one conversation at any time.
        num_replicas: of the model.
        costs: of an engine's work.
        until_s: when to stop.
        limits: of a replica.
        talk: how people talk.
        router: which replica a request goes to.
        seed: of all random numbers.
        zone_lost_at_s: when a zone goes; None for never.
        zone_back_after_s: how long after that as many replicas have started elsewhere.
    """
    env = simpy.Environment()
    cluster = Cluster(env, num_replicas, costs, limits or Limits(), router, seed)
    for number in range(num_people):
        env.process(cluster.person(number, talk or Talk(), seed))

    if zone_lost_at_s is not None:
        env.process(cluster.lose_zone(0, zone_lost_at_s, zone_back_after_s))
    env.run(until=until_s)
    return cluster.record
