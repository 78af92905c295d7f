"""Models that are loaded when they are asked for: together, one at a time, and again after they were unloaded."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from llmapi_kit.config import Settings
from llmapi_kit.errors import EngineUnavailableError, ModelLoadError, UnsupportedFieldError
from llmapi_kit.types import Delta, ImageRequest
from tests.engines.conftest import ask, check_order, collect, wait_until

from .lazy_models import DEADLINE_S, Closing, Machine

pytestmark = pytest.mark.kernel


@pytest.fixture
def machine(monkeypatch):
    made = Machine()
    monkeypatch.setattr("llmapi_kit.loading.lazy_model.release_memory", made.release_memory)
    yield made
    made.close()


class Blind(Closing):
    generate_images = None


def answer(engine, text="hello"):
    return asyncio.run(collect(engine.generate(ask(text))))[0]


def threads_of(name):
    return [thread for thread in threading.enumerate() if thread.name.endswith(f" {name}")]


def test_nothing_is_loaded_until_somebody_asks(machine):
    engine = machine.model("a")
    assert machine.made == []
    assert (engine.info.id, engine.info.capabilities) == ("a", ())
    assert "Not loaded" in engine.info.description
    assert (engine.readiness().state, engine.readiness().ready) == ("unloaded", True)
    assert answer(engine) == "I am a"
    assert machine.made == ["a"]
    assert engine.readiness().state == "loaded"


def test_the_info_is_the_real_one_once_it_is_loaded_under_the_name_it_was_given(machine):
    engine = machine.model("a", context_length=77)
    asyncio.run(engine.prepare())
    assert (engine.info.id, engine.info.context_length) == ("a", 77)
    assert "embeddings" in engine.info.capabilities
    assert engine.unload()
    assert engine.info.context_length == 77


def test_requests_that_come_while_it_loads_wait_for_one_load_together(machine):
    gate = threading.Event()
    engine = machine.model("a", gate=gate)

    async def main():
        tasks = [asyncio.create_task(collect(engine.generate(ask(f"{i}")))) for i in range(20)]
        await wait_until(lambda: engine.stats().num_queued == 20)
        assert engine.readiness().state == "loading"
        gate.set()
        return [text for text, _ in await asyncio.gather(*tasks)]

    assert asyncio.run(main()) == ["I am a"] * 20
    assert machine.made == ["a"]
    assert engine.stats().num_loads == 1
    assert engine.stats().num_queued == 0


def test_several_models_load_one_at_a_time(machine):
    engines = [machine.model(name, pause_s=0.02) for name in "abcde"]

    async def main():
        return await asyncio.gather(*(collect(engine.generate(ask())) for engine in engines for _ in range(3)))

    assert {text for text, _ in asyncio.run(main())} == {f"I am {name}" for name in "abcde"}
    assert machine.most_at_once == 1
    assert sorted(machine.made) == list("abcde")


def test_it_is_loaded_again_after_it_was_unloaded(machine):
    engine = machine.model("a")
    assert answer(engine) == "I am a"
    assert engine.unload()
    assert (engine.readiness().state, machine.open) == ("unloaded", {})
    assert answer(engine) == "I am a"
    stats = engine.stats()
    assert (stats.num_loads, stats.num_unloads, stats.num_finished) == (2, 1, 2)


def test_memory_is_given_back_after_each_unload_and_each_failed_load(machine):
    engine = machine.model("a")
    answer(engine)
    engine.unload()
    assert machine.num_releases == 1
    broken = machine.model("b", error=lambda: ModelLoadError("no"))
    with pytest.raises(EngineUnavailableError):
        answer(broken)
    asyncio.run(wait_until(lambda: machine.num_releases == 2))


def test_embedding_and_tokenizing_load_it_too(machine):
    engine = machine.model("a")
    vectors = asyncio.run(engine.embed(["x"]))
    assert len(vectors) == 1
    engine.unload()
    ids = asyncio.run(engine.tokenize("one two"))
    assert asyncio.run(engine.detokenize(ids)) == "one two"
    engine.unload()
    assert len(asyncio.run(engine.tokenize_chat(ask("one two")))) == 2
    assert engine.stats().num_loads == 3


def test_pictures_come_from_a_model_that_makes_some(machine):
    assert len(asyncio.run(machine.model("a").generate_images(ImageRequest(prompt="a cat")))) == 1
    with pytest.raises(UnsupportedFieldError, match="makes no images"):
        asyncio.run(machine.model("b", kind=Blind).generate_images(ImageRequest(prompt="a cat")))


def test_it_is_not_unloaded_while_it_answers(machine):
    engine = machine.model("a", num_tokens=1000, delay_s=0.001)

    async def main():
        events = engine.generate(ask())
        async for event in events:
            if isinstance(event, Delta):
                assert not engine.unload()
                break
        await events.aclose()
        assert engine.unload()

    asyncio.run(main())
    assert machine.made == ["a"]


def test_a_load_that_takes_too_long_is_a_503_that_says_so_and_goes_on(machine):
    gate = threading.Event()
    engine = machine.model("a", gate=gate, settings=Settings(load_wait_s=0.05))
    with pytest.raises(EngineUnavailableError, match=r"still loading after 0\.05 s") as caught:
        answer(engine)
    assert (caught.value.status, caught.value.code) == (503, "model_loading")
    assert caught.value.retry_after_s >= 1
    assert engine.stats().num_queued == 0
    gate.set()
    asyncio.run(wait_until(lambda: engine.readiness().state == "loaded"))
    assert answer(engine) == "I am a"
    assert engine.stats().num_loads == 1


def test_a_client_that_leaves_does_not_stop_the_load_for_the_others(machine):
    gate = threading.Event()
    engine = machine.model("a", gate=gate)

    async def main():
        leaves, stays = (asyncio.create_task(collect(engine.generate(ask()))) for _ in range(2))
        await wait_until(lambda: engine.stats().num_queued == 2)
        leaves.cancel()
        await asyncio.wait([leaves])
        assert leaves.cancelled()
        assert engine.stats().num_queued == 1
        gate.set()
        return (await stays)[0]

    assert asyncio.run(main()) == "I am a"
    assert engine.unload(), "whoever left holds nothing"


def test_a_client_that_leaves_as_the_model_comes_leaves_it_free(machine):
    """Whoever was let in and never got to run would have kept the model in memory for ever."""
    for _ in range(30):
        gate = threading.Event()
        engine = machine.model("a", gate=gate)

        async def main(engine=engine, gate=gate):
            tasks = [asyncio.create_task(engine.prepare()) for _ in range(5)]
            await wait_until(lambda: engine.stats().num_queued == 5)
            gate.set()
            while engine.readiness().state != "loaded":
                pass  # hold the event loop up, so that all are let in before one of them runs
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(main())
        assert engine.unload()
        engine.close()


def test_an_event_loop_that_dies_while_it_waits_harms_nobody(machine):
    """Whoever waited on it will never leave: the others would have waited for ever, and the model stayed loaded."""
    gate = threading.Event()
    engine = machine.model("a", gate=gate)
    loop = asyncio.new_event_loop()
    lost = loop.create_task(engine.prepare())
    loop.run_until_complete(wait_until(lambda: engine.stats().num_queued == 1))
    lost._log_destroy_pending = False
    loop.close()

    async def main():
        task = asyncio.create_task(collect(engine.generate(ask())))
        await wait_until(lambda: engine.stats().num_queued == 2)
        gate.set()
        return (await task)[0]

    assert asyncio.run(main()) == "I am a"
    assert engine.unload()
    del lost


def test_a_failed_load_is_told_to_all_who_wait_and_tried_again_after_a_pause(machine, monkeypatch):
    errors = [ModelLoadError("its weights are damaged"), None]
    engine = machine.model("a", error=lambda: errors.pop(0))

    async def main():
        return await asyncio.gather(*(collect(engine.generate(ask())) for _ in range(3)), return_exceptions=True)

    failures = asyncio.run(main())
    for failure in failures:
        assert isinstance(failure, EngineUnavailableError)
        assert failure.message == "The model 'a' could not be loaded: its weights are damaged"
        assert failure.code == "model_load_failed"
        assert 1 <= failure.retry_after_s <= 2
    assert not engine.readiness().ready
    assert "damaged" in engine.readiness().reason
    with pytest.raises(EngineUnavailableError, match="damaged"):
        answer(engine)
    assert len(errors) == 1, "within the pause nothing is loaded"
    assert engine.stats().num_failed_loads == 1

    monkeypatch.setattr("llmapi_kit.loading.load_failure.LoadFailure.pause_left_s", 0.0)
    assert engine.readiness().ready
    assert answer(engine) == "I am a"
    assert engine.readiness().reason == ""


@pytest.mark.parametrize("error", [SystemExit(3), RuntimeError("bang"), MemoryError()])
def test_whatever_loading_raises_nobody_hangs(machine, error):
    engine = machine.model("a", error=lambda: error)
    with pytest.raises(EngineUnavailableError):
        answer(engine)
    assert engine.stats().num_queued == 0


def test_loading_in_a_cell_raises_what_loading_raised(machine):
    engine = machine.model("a", error=lambda: ModelLoadError("as it was raised"))
    with pytest.raises(ModelLoadError, match="as it was raised"):
        engine.load()


def test_a_failed_load_keeps_nothing_of_what_it_had_loaded(machine):
    class Weights:
        pass

    kept = []

    def fail():
        weights = Weights()
        kept.append(weakref.ref(weights))
        raise ModelLoadError("half way")

    engine = machine.model("a", error=fail)
    for _ in range(2):
        with pytest.raises(EngineUnavailableError):
            answer(engine)
    asyncio.run(wait_until(lambda: not threads_of("a")))
    gc.collect()
    assert kept[0]() is None


def test_closing_in_the_middle_of_a_load_neither_hangs_nor_leaks(machine):
    gate = threading.Event()
    engine = machine.model("a", gate=gate)

    async def main():
        task = asyncio.create_task(collect(engine.generate(ask())))
        await wait_until(lambda: machine.begun == ["a"])
        engine.close()
        with pytest.raises(EngineUnavailableError, match="was closed"):
            await task
        gate.set()
        await wait_until(lambda: not threads_of("a"))

    asyncio.run(main())
    assert machine.made == ["a"]
    assert machine.open == {}, "what was loaded in vain is closed"
    with pytest.raises(EngineUnavailableError, match="was closed"):
        answer(engine)
    assert not engine.readiness().ready


def test_closing_ends_what_it_answers_in_an_error(machine):
    engine = machine.model("a", num_tokens=100_000, delay_s=0.001)

    async def main():
        events = engine.generate(ask())
        seen = [await anext(events), await anext(events)]
        engine.close()
        return seen + [event async for event in events]

    check_order(asyncio.run(main()))


def test_an_idle_model_is_unloaded_after_a_while_and_one_that_answers_is_not(machine):
    gate = asyncio.Event()
    busy = machine.model("busy", num_tokens=100_000, delay_s=0.001, settings=Settings(idle_unload_s=0.05))
    idle = machine.model("idle", settings=Settings(idle_unload_s=0.05))

    async def main():
        events = busy.generate(ask())
        await anext(events)
        await idle.prepare()
        await wait_until(lambda: idle.readiness().state == "unloaded")
        await wait_until(lambda: not threads_of("idle"))
        assert busy.readiness().state == "loaded"
        await events.aclose()
        await wait_until(lambda: busy.readiness().state == "unloaded")

    asyncio.run(main())
    assert machine.open == {}
    assert idle.stats().num_unloads == 1
    assert not gate.is_set()


def test_idle_settings_may_change_while_it_is_loaded(machine):
    engine = machine.model("a")
    asyncio.run(engine.prepare())
    assert not threads_of("a")
    engine.apply(Settings(idle_unload_s=0.02))
    asyncio.run(wait_until(lambda: engine.readiness().state == "unloaded"))
    engine.apply(Settings(idle_unload_s=100))
    asyncio.run(engine.prepare())
    assert len(threads_of("a")) == 1
    engine.close()
    asyncio.run(wait_until(lambda: not threads_of("a")))


def test_it_waits_on_many_event_loops_at_once(machine):
    gate = threading.Event()
    engine = machine.model("a", gate=gate)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(answer(engine))) for _ in range(8)]
    for thread in threads:
        thread.start()
    asyncio.run(wait_until(lambda: engine.stats().num_queued == 8))
    gate.set()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert answers == ["I am a"] * 8


def test_a_closed_lazy_engine_lets_go_of_everything(machine):
    engine = machine.model("a", settings=Settings(idle_unload_s=1000))
    assert answer(engine) == "I am a"
    inner = weakref.ref(machine.open["a"])
    engine.close()
    asyncio.run(wait_until(lambda: not threads_of("a")))
    gc.collect()
    assert inner() is None
