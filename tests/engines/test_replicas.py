"""Replicas share requests by what their caches hold and by how much they have to do, and stand in for each other."""

from __future__ import annotations

import asyncio
import random

import pytest

from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.engines.prefix_affinity import BLOCK, MUCH_MORE, TIMES_OF_ONE, PrefixAffinity, block_keys
from llmapi_kit.engines.replicas import ReplicatedEngine
from llmapi_kit.errors import ConfigError, ContextLengthError, EngineUnavailableError, GenerationError, QueueFullError
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.testing import EngineContract
from llmapi_kit.testing.events import collect
from llmapi_kit.types import Accepted, Delta, EngineStats, Failed, Finished


class TestReplicatedEngine(EngineContract):
    def make_engine(self):
        replicas = [MockEngine(delay_s=0.002, num_tokens=180) for _ in range(2)]
        replicas[1]._words = replicas[0]._words  # a mock's grows; those of models are alike
        return ReplicatedEngine(replicas)


class Replica(MockEngine):
    """Counts what it is asked, and fails as it is told: ``at`` an event's number, or before the first one at -1."""

    def __init__(self, error=None, at=-1):
        super().__init__("one two three four", delay_s=0.001)
        self.asked, self.error, self.at = [], error, at
        self.gate, self.has_all = None, None

    async def generate(self, request):
        self.asked.append(request.prompt or request.messages[-1]["content"])
        if self.gate is not None:
            self.gate(self)
            await self.has_all.wait()
        if self.error is not None and self.at < 0:
            raise self.error
        number = 0
        async for event in super().generate(request):
            yield event
            if self.error is not None and number == self.at:
                yield Failed(self.error)
                return
            number += 1


def prompt(text):
    return GenerationRequest(prompt=text, sampling=SamplingParams(temperature=0))


def turn(*texts):
    roles = ("user", "assistant")
    messages = [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]
    return GenerationRequest(messages=messages, sampling=SamplingParams(temperature=0))


def ask(engine, *requests):
    async def all_of_them():
        return [await collect(engine.generate(request)) for request in requests]

    return asyncio.run(all_of_them())


def test_without_a_replica_it_is_refused():
    with pytest.raises(ConfigError):
        ReplicatedEngine([])


def test_a_conversation_stays_where_it_began():
    replicas = [Replica() for _ in range(3)]
    engine = ReplicatedEngine(replicas)
    numbers = random.Random(0)
    talks = [["".join(numbers.choices("abcdefgh ", k=2 * BLOCK))] for _ in range(9)]
    for _ in range(4):
        for talk in talks:
            ask(engine, turn(*talk))
            talk += ["an answer", "".join(numbers.choices("abcdefgh ", k=BLOCK))]
    for talk in talks:
        where = [sum(text in each.asked for text in talk[::2]) for each in replicas]
        assert sorted(where) == [0, 0, 4], "a turn went elsewhere"
    assert [len(each.asked) for each in replicas] == [12, 12, 12], "new conversations are spread"


def test_a_replica_with_much_more_to_do_is_spared():
    async def main():
        has_all, order = asyncio.Event(), []

        def note(replica):
            order.append(replicas.index(replica))
            if len(order) == 10:
                has_all.set()

        replicas = [Replica() for _ in range(2)]
        for each in replicas:
            each.gate, each.has_all = note, has_all
        engine = ReplicatedEngine(replicas)
        same = [prompt("the same " * 100) for _ in range(10)]
        await asyncio.gather(*(collect(engine.generate(request)) for request in same))
        return order

    first, *others = asyncio.run(main())
    assert others[:5] == [first] * MUCH_MORE + [1 - first], "five wait before another one computes it too"
    assert [first, *others].count(first) == 5


@pytest.mark.parametrize("at", [-1, 0])
@pytest.mark.parametrize("error", [EngineUnavailableError("It died."), QueueFullError("It is full.")])
def test_a_request_that_has_no_piece_of_its_answer_is_asked_elsewhere(error, at):
    broken, whole = Replica(error, at), Replica()
    engine = ReplicatedEngine([broken, whole])
    (events,) = ask(engine, prompt("a"))
    assert len(broken.asked) == len(whole.asked) == 1
    assert [type(event) for event in events] == [Accepted, Delta, Delta, Delta, Delta, Finished]


def test_what_is_under_way_ends_in_one_error():
    broken, whole = Replica(EngineUnavailableError("It died."), at=2), Replica()
    (events,) = ask(ReplicatedEngine([broken, whole]), prompt("a"))
    assert [type(event) for event in events] == [Accepted, Delta, Delta, Failed]
    assert whole.asked == []


def test_what_is_the_clients_fault_or_the_models_is_not_asked_again():
    for error, at in ((ContextLengthError("too long"), -1), (GenerationError("it failed"), -1)):
        whole = Replica()
        with pytest.raises(type(error)):
            ask(ReplicatedEngine([Replica(error, at), whole]), prompt("a"))
        assert whole.asked == []
    whole = Replica()
    (events,) = ask(ReplicatedEngine([Replica(GenerationError("it failed"), 0), whole]), prompt("a"))
    assert [type(event) for event in events] == [Accepted, Failed]
    assert whole.asked == []


def test_where_all_are_full_or_gone_the_last_reason_is_given():
    full = ReplicatedEngine([Replica(QueueFullError("It is full.", retry_after_s=3)) for _ in range(2)])
    with pytest.raises(QueueFullError) as caught:
        ask(full, prompt("a"))
    assert caught.value.retry_after_s == 3
    with pytest.raises(EngineUnavailableError):
        ask(ReplicatedEngine([Replica(EngineUnavailableError("gone")) for _ in range(3)]), prompt("a"))
    died = ReplicatedEngine([Replica(EngineUnavailableError("gone"), 0) for _ in range(2)])
    assert [type(event) for event in ask(died, prompt("a"))[0]] == [Accepted, Failed]


def test_it_is_ready_while_one_is_and_counts_for_all():
    replicas = [Replica() for _ in range(2)]
    engine = ReplicatedEngine(replicas)
    ask(engine, *(prompt(text) for text in "abcd"))
    assert engine.stats().num_finished == 4
    assert [each.stats().num_finished for each in replicas] == [2, 2]
    assert engine.stats().num_slots == 2 * replicas[0].stats().num_slots
    replicas[0].close()
    assert engine.readiness().ready
    assert engine.readiness().reason.startswith("replica 1: ")
    replicas[1].close()
    assert not engine.readiness().ready


def test_the_share_of_memory_in_use_is_their_mean():
    each = [EngineStats(kv_use=0.5, num_running=1), EngineStats(kv_use=0.1, num_running=2)]
    assert EngineStats.together(each).kv_use == pytest.approx(0.3)
    assert EngineStats.together(each).num_running == 3


def test_keys_are_shared_as_far_as_prompts_are_and_not_between_salts():
    long = "x" * (3 * BLOCK)
    one, other = block_keys(prompt(long + "a" * BLOCK)), block_keys(prompt(long + "b" * BLOCK))
    assert [a == b for a, b in zip(one, other, strict=True)] == [True, True, True, False]
    assert block_keys(prompt("short")) == block_keys(prompt("short")) != block_keys(prompt("other"))
    salted = GenerationRequest(prompt=long, cache_salt="key")
    assert not set(block_keys(salted)) & set(one)
    assert block_keys(prompt([1, 2, 3])) != block_keys(prompt([1, 2, 4]))
    pictures = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + letter * 10**6}} for letter in "ab"
    ]
    assert block_keys(turn([pictures[0]])) != block_keys(turn([pictures[1]]))
    assert len(block_keys(prompt("y" * 10**7))) == 64


def test_what_one_conversation_said_keeps_its_replica_longer_than_what_many_begin_with():
    affinity = PrefixAffinity()
    assert affinity.much_more([], num_slots=32) == MUCH_MORE, "nothing of it is cached anywhere"
    for number in range(TIMES_OF_ONE + 1):
        affinity.record([b"system prompt", b"talk %d" % number], 0)
    assert affinity.much_more([b"system prompt"], num_slots=32) == MUCH_MORE
    assert affinity.much_more([b"system prompt", b"talk 0"], num_slots=32) == 32
    assert affinity.much_more([b"system prompt", b"talk 0"], num_slots=2) == MUCH_MORE


def test_the_oldest_beginnings_are_forgotten_and_those_of_a_dead_replica():
    affinity = PrefixAffinity(max_keys=3)
    affinity.record([b"a", b"b"], 0)
    affinity.record([b"a", b"c"], 1)
    assert affinity.lengths([b"a", b"b"]) == {0: 2, 1: 1}
    affinity.record([b"d"], 1)
    assert affinity.lengths([b"b"]) == {}
    affinity.forget(1)
    assert affinity.lengths([b"a", b"c"]) == {0: 1}
