"""A model's replica in simulated time: slots, continuous batching, prompts in chunks, and a prefix cache.

The same rules as the kit's own scheduler, without the tokens: every running answer gets one token a step, prompts get
what is left of a step. Stretches of steps in which nothing changes are one event.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import OrderedDict, deque
from collections.abc import Generator
from dataclasses import dataclass, field
from enum import Enum

import simpy

from benchmarks.engine_costs import EngineCosts

Steps = Generator[simpy.Event, None, None]


class End(Enum):
    """How a request ended."""

    DONE = "answered"
    AGAIN = "its replica died before the first token, so it is asked again"
    BROKEN = "its replica died while it streamed, so it ends in an error"


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a replica; the kit's settings of the same names.

    Attributes:
        max_slots: requests that are answered at once.
        max_queue: requests that may wait for a slot.
        step_tokens: most tokens of a step.
        max_stall_s: how long prompts may hold up running answers in a step.
        cache_tokens: tokens whose keys and values are kept for later turns.
    """

    max_slots: int = 32
    max_queue: int = 128
    step_tokens: int = 512
    max_stall_s: float = 0.2
    cache_tokens: int = 400_000


@dataclass(slots=True)
class Request:
    """A turn of a conversation.

    Attributes:
        conversation: whose turn; its earlier turns may be cached.
        prompt_tokens: all of the conversation so far.
        shared_tokens: those from the beginning that all conversations share.
        answer_tokens: how long the answer will be.
        ended: comes with an `End`.
        first_token_s: when the first token came.
        cached_tokens: of the prompt, that were not computed.
    """

    conversation: int
    prompt_tokens: int
    answer_tokens: int
    ended: simpy.Event
    shared_tokens: int = 0
    first_token_s: float | None = None
    cached_tokens: int = 0


class PrefixCache:
    """How much of each conversation a replica has computed; what was not used for longest goes first."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._num_tokens = 0
        self._lengths: OrderedDict[int, int] = OrderedDict()

    def length(self, request: Request) -> int:
        """How much of its prompt need not be computed; the last token always is."""
        known = max(self._lengths.get(request.conversation, 0), request.shared_tokens)
        return min(known, request.prompt_tokens - 1)

    def keep(self, conversation: int, num_tokens: int) -> None:
        """So much of a conversation is computed."""
        self._num_tokens += num_tokens - self._lengths.pop(conversation, 0)
        self._lengths[conversation] = num_tokens
        while self._num_tokens > self._max_tokens:
            _, length = self._lengths.popitem(last=False)
            self._num_tokens -= length


@dataclass(slots=True)
class _Prompt:
    request: Request
    left: int  # tokens that are not computed


@dataclass(order=True, slots=True)
class _Answer:
    last_step: int
    number: int
    request: Request = field(compare=False)


class Replica:
    """See the module.

    Args:
        env: the simulation.
        costs: of its steps.
        limits: of its slots.
        zone: where it stands.

    Attributes:
        zone: as given.
        num_requests: that wait or run.
        cache: of what it has computed.
    """

    def __init__(self, env: simpy.Environment, costs: EngineCosts, limits: Limits, zone: int = 0) -> None:
        self.zone = zone
        self.num_requests = 0
        self.cache = PrefixCache(limits.cache_tokens)
        self._env, self._costs, self._limits = env, costs, limits
        self._waiting: deque[Request] = deque()
        self._prompts: deque[_Prompt] = deque()
        self._answers: list[_Answer] = []
        self._numbers = itertools.count()
        self._num_steps = 0
        self._has_work = env.event()
        self._process = env.process(self._run())

    @property
    def has_room(self) -> bool:
        """Whether one more request may at least wait."""
        return self.num_requests < self._limits.max_slots + self._limits.max_queue

    def submit(self, request: Request) -> None:
        """Take a request; there has to be room."""
        self.num_requests += 1
        self._waiting.append(request)
        if self._num_running < self._limits.max_slots and not self._has_work.triggered:
            self._has_work.succeed()

    def die(self) -> None:
        """Lose everything at once."""
        self._process.interrupt()
        held = [*self._waiting, *(each.request for each in self._prompts), *(each.request for each in self._answers)]
        for request in held:
            request.ended.succeed(End.AGAIN if request.first_token_s is None else End.BROKEN)
        self.num_requests = 0

    @property
    def _num_running(self) -> int:
        return len(self._prompts) + len(self._answers)

    def _run(self) -> Steps:
        try:
            while True:
                self._admit()
                self._has_work = self._env.event()
                if self._prompts:
                    yield from self._step_with_prompts()
                elif self._answers:
                    yield from self._steps_until_something_changes()
                else:
                    yield self._has_work
        except simpy.Interrupt:
            return

    def _admit(self) -> None:
        while self._waiting and self._num_running < self._limits.max_slots:
            request = self._waiting.popleft()
            request.cached_tokens = self.cache.length(request)
            self._prompts.append(_Prompt(request, request.prompt_tokens - request.cached_tokens))

    def _step_with_prompts(self) -> Steps:
        budget = left = self._prompt_budget()
        computed = []
        while self._prompts and left:
            prompt = self._prompts[0]
            taken = min(left, prompt.left)
            prompt.left -= taken
            left -= taken
            if prompt.left:
                break
            computed.append(self._prompts.popleft())
        # They hold their slots, and die with the replica, until the step is over
        answers = [_Answer(0, next(self._numbers), prompt.request) for prompt in computed]
        num_decoding = len(self._answers)
        self._answers += answers
        yield self._env.timeout(self._costs.step_time_s(num_decoding + budget - left))
        self._num_steps += 1
        for answer in answers:
            answer.request.first_token_s = self._env.now
            answer.last_step = self._num_steps + answer.request.answer_tokens - 1
        heapq.heapify(self._answers)
        self._end_answers()

    def _prompt_budget(self) -> int:
        left = self._limits.step_tokens - len(self._answers)
        if self._answers:
            left = min(left, int(self._limits.max_stall_s / self._costs.token_s))
        return max(1, left)

    def _steps_until_something_changes(self) -> Steps:
        step_s = self._costs.step_time_s(len(self._answers))
        num, began_s = self._answers[0].last_step - self._num_steps, self._env.now
        is_over = self._env.timeout(num * step_s)
        yield is_over | self._has_work
        if not is_over.processed:
            # A step that has begun goes on to its end
            num = min(num, math.ceil((self._env.now - began_s) / step_s))
            yield self._env.timeout(max(0.0, began_s + num * step_s - self._env.now))
        self._num_steps += num
        self._end_answers()

    def _end_answers(self) -> None:
        while self._answers and self._answers[0].last_step <= self._num_steps:
            request = heapq.heappop(self._answers).request
            self.cache.keep(request.conversation, request.prompt_tokens + request.answer_tokens)
            self.num_requests -= 1
            request.ended.succeed(End.DONE)
