"""Models that share too little memory: who goes for whom, and who never goes."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest

from llmapi_kit.config import Settings
from llmapi_kit.errors import EngineUnavailableError, ModelTooLargeError
from llmapi_kit.types import Delta
from tests.engines.conftest import ask, collect, wait_until

from .lazy_models import Machine

pytestmark = pytest.mark.kernel

LONG = {"num_tokens": 1_000_000, "delay_s": 0.001}


@pytest.fixture
def machine(monkeypatch):
    """Room for two."""
    made = Machine(size=2)
    monkeypatch.setattr("llmapi_kit.loading.lazy_model.release_memory", made.release_memory)
    yield made
    made.close()


async def load(*engines):
    for engine in engines:
        await engine.prepare()


async def begin(engine):
    """An answer under way."""
    events = engine.generate(ask())
    async for event in events:
        if isinstance(event, Delta):
            return events
    raise AssertionError("it ended")


def test_the_one_that_was_not_used_for_longest_goes_first(machine):
    a, b, c = (machine.model(name) for name in "abc")

    async def main():
        await load(a, b)
        await collect(a.generate(ask()))
        await load(c)
        assert sorted(machine.open) == ["a", "c"]
        await load(b)
        assert sorted(machine.open) == ["b", "c"]

    asyncio.run(main())
    assert machine.made == ["a", "b", "c", "b"]
    assert [engine.stats().num_unloads for engine in (a, b, c)] == [1, 1, 0]


def test_nothing_is_unloaded_while_there_is_room(machine):
    a, b = (machine.model(name) for name in "ab")
    asyncio.run(load(a, b, a, b))
    assert machine.made == ["a", "b"]


def test_as_many_go_as_it_takes(machine):
    a, b, large = machine.model("a"), machine.model("b"), machine.model("large", need=2)
    asyncio.run(load(a, b, large))
    assert list(machine.open) == ["large"]


def test_one_that_answers_is_never_unloaded_another_goes_though_it_was_used_later(machine):
    a, b, c = machine.model("a", **LONG), machine.model("b"), machine.model("c")

    async def main():
        events = await begin(a)
        await load(b, c)
        assert sorted(machine.open) == ["a", "c"]
        assert isinstance(await anext(events), Delta)
        await events.aclose()

    asyncio.run(main())


def test_where_all_answer_the_next_model_waits_until_one_is_done(machine):
    a, b, c = machine.model("a", **LONG), machine.model("b", **LONG), machine.model("c")

    async def main():
        first, second = await begin(a), await begin(b)
        waiting = asyncio.create_task(c.prepare())
        await wait_until(lambda: a._model._is_held)
        assert sorted(machine.open) == ["a", "b"]
        await second.aclose()  # not the one that was to go: whoever is done first
        await waiting
        assert sorted(machine.open) == ["a", "c"]
        assert isinstance(await anext(first), Delta)
        assert not a._model._is_held
        await first.aclose()

    asyncio.run(main())


def test_one_that_never_rests_is_relieved_of_new_requests_until_it_has_gone(machine):
    """Under constant load on the others, a third model would never have been loaded."""
    machine.size = 1
    a, b = machine.model("a", num_tokens=20, delay_s=0.001), machine.model("b")
    is_over = asyncio.Event()

    async def keep_busy():
        while not is_over.is_set():
            assert (await collect(a.generate(ask())))[0]

    async def main():
        clients = [asyncio.create_task(keep_busy()) for _ in range(4)]
        await wait_until(lambda: a.stats().num_running == 4)
        await b.prepare()
        is_over.set()
        await asyncio.gather(*clients)

    asyncio.run(main())
    assert b.stats().num_loads == 1
    assert a.stats().num_failed == a.stats().num_cancelled == 0


def test_if_they_go_on_answering_it_gives_up_with_the_reason_and_lets_them_be(machine):
    a, b = machine.model("a", **LONG), machine.model("b", **LONG)
    c = machine.model("c", settings=Settings(load_wait_s=0.1))

    async def main():
        first, second = await begin(a), await begin(b)
        with pytest.raises(EngineUnavailableError) as caught:
            await c.prepare()
        assert caught.value.retry_after_s
        await wait_until(lambda: c.readiness().state == "unloaded")
        assert "'a', 'b', in use all the while" in c.readiness().reason
        assert c.readiness().ready, "there is no pause: room may be there in a moment"
        third = await begin(a)
        for events in (first, second, third):
            await events.aclose()
        c.apply(Settings())
        await c.prepare()

    asyncio.run(main())


def test_requests_for_a_held_model_go_on_once_it_is_spared(machine):
    machine.size = 1
    a, b = machine.model("a", **LONG), machine.model("b", settings=Settings(load_wait_s=0.2))

    async def main():
        first = await begin(a)
        with_b = asyncio.create_task(b.prepare())
        await wait_until(lambda: a._model._is_held)
        later = asyncio.create_task(begin(a))
        await wait_until(lambda: a.stats().num_queued == 1)
        with pytest.raises(EngineUnavailableError):
            await with_b
        for events in (first, await later):
            await events.aclose()

    asyncio.run(main())
    assert machine.made == ["a"]


def test_what_can_never_fit_is_told_and_nothing_is_unloaded_for_it(machine):
    a, b, huge = machine.model("a"), machine.model("b"), machine.model("huge", need=3)

    async def main():
        await load(a, b)
        with pytest.raises(EngineUnavailableError, match="Choose a smaller or a quantised model"):
            await huge.prepare()

    asyncio.run(main())
    assert sorted(machine.open) == ["a", "b"]


def test_a_load_that_finds_too_little_memory_gets_more_if_there_is_some(machine):
    """What a model takes is an estimate: a load may fail although there seemed to be room."""
    machine.size = 100
    a, b = machine.model("a"), machine.model("b")
    errors = [ModelTooLargeError("2 more would do"), ModelTooLargeError("1 more would do"), None]
    c = machine.model("c", error=lambda: errors.pop(0))
    asyncio.run(load(a, b, c))
    assert list(machine.open) == ["c"]
    last = machine.model("last", error=lambda: ModelTooLargeError("never"))
    with pytest.raises(EngineUnavailableError, match="never"):
        asyncio.run(load(last))


def test_stopping_while_it_waits_for_room_ends_the_wait(machine):
    machine.size = 1
    a, b = machine.model("a", **LONG), machine.model("b")

    async def main():
        events = await begin(a)
        task = asyncio.create_task(b.prepare())
        await wait_until(lambda: a._model._is_held)
        b.close()
        with pytest.raises(EngineUnavailableError, match="was closed"):
            await task
        await wait_until(lambda: not a._model._is_held)
        await events.aclose()
        await wait_until(lambda: not [t for t in threading.enumerate() if t.name.endswith(" b")])

    asyncio.run(main())
    assert machine.made == ["a"]


def test_a_model_on_another_device_does_not_go(machine):
    a, b = machine.model("a"), machine.model("b")
    asyncio.run(load(a, b))
    a._model.need = b._model.need.__class__("cuda:0", 1, 1, 1)
    asyncio.run(load(machine.model("c")))
    assert sorted(machine.open) == ["a", "c"]


@pytest.mark.parametrize("seed", range(3))
def test_random_requests_unloads_and_leavers_all_end_well(machine, seed):
    """Deadlocks, answers from the wrong model, and memory overdrawn."""
    random_numbers = random.Random(seed)
    engines = {name: machine.model(name, num_tokens=6, delay_s=0.0005) for name in "abcd"}
    overdrawn = []

    async def client(number):
        for _ in range(12):
            name = random_numbers.choice("abcd")
            work = asyncio.create_task(collect(engines[name].generate(ask())))
            if random_numbers.random() < 0.2:
                await asyncio.sleep(random_numbers.random() * 0.01)
                work.cancel()
                await asyncio.wait([work])
            else:
                text, _ = await work
                assert text.startswith(f"I am {name}")
            overdrawn.append(len(machine.open) > machine.size)
            if random_numbers.random() < 0.1:
                await asyncio.to_thread(engines[random_numbers.choice("abcd")].unload)

    async def main():
        await asyncio.wait_for(asyncio.gather(*(client(i) for i in range(16))), 60)

    asyncio.run(main())
    assert not any(overdrawn)
    assert all(engine._model._num_leases == 0 for engine in engines.values())
