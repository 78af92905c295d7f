"""Adapters of a local engine over the fake runner: who answers with which, and when their weights come and go."""

from __future__ import annotations

import asyncio
import threading

import pytest

from llmapi_kit.config import Settings
from llmapi_kit.engines.adapters import adapters_of
from llmapi_kit.engines.catalog import Catalog, visible_models
from llmapi_kit.engines.fallback import FallbackEngine
from llmapi_kit.engines.local.loaded_adapter import AdapterFiles
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ConfigError, EngineUnavailableError, ModelLoadError, NotFoundError
from llmapi_kit.types import Failed

from .conftest import ask, collect, make_local

LONG = " ".join(f"word{i}" for i in range(60))


def read(source):
    """Whatever it is called is its weights; some are none."""
    if source == "damaged":
        raise ModelLoadError("damaged: it is")
    return AdapterFiles(weights=ModelLoadError("made for another model") if source == "another" else source)


@pytest.fixture
def local():
    """Makes engines that take adapters; all are closed at the end."""
    made = []

    def make(**options):
        made.append(make_local(read_adapter=read, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def answer(engine, text="one two three", **sampling):
    return asyncio.run(collect(engine.generate(ask(text, **{"max_tokens": 5, **sampling}))))[0]


def expected(engine, number, text="one two three"):
    ids = engine._codec.encode(text, add_special_tokens=False)
    return "".join(f"<{token_id}>" for token_id in engine.test_runner.expected(ids, 5, number))


def test_each_adapter_answers_under_its_own_name_beside_the_model(local):
    engine = local()
    engine.adapters.add("./a", "a")
    engine.adapters.add("./b", "b")
    catalog = Catalog([engine], {"short": "fake:b"})
    assert [each.info.id for each in catalog.listed()] == ["fake", "fake:a", "fake:b"]
    assert [each.info.id for each in catalog.all()] == ["fake"]
    answers = [answer(catalog.get(name)) for name in ("fake", "fake:a", "fake:b", "short", None)]
    assert answers == [expected(engine, number) for number in (0, 1, 2, 2, 0)]
    assert len(set(answers)) == 3
    info = catalog.get("fake:a").info
    assert (info.parent, info.root, info.context_length) == ("fake", "a", engine.info.context_length)


def test_requests_of_all_adapters_share_steps(local):
    engine = local()
    for name in "abc":
        engine.adapters.add(name, name)

    async def at_once():
        each = [engine, *engine.adapters.engines().values()]
        return await asyncio.gather(*(collect(one.generate(ask(max_tokens=5))) for one in each))

    texts = [text for text, _ in asyncio.run(at_once())]
    assert texts == [expected(engine, number) for number in range(4)]
    assert any({item.adapter for item in step} == {0, 1, 2, 3} for step in engine.test_runner.steps)


def test_a_cached_prefix_is_never_another_adapters(local):
    engine = local(num_slots=2)
    engine.adapters.add("a", "a")
    first = engine.adapters.engines()["fake:a"]
    for each in (engine, first, engine, first):
        answer(each, LONG)
    assert engine.stats().num_cached_tokens > 60, "each goes on from its own"
    engine.adapters.remove("a")
    engine.adapters.add("a", "a")
    assert answer(engine.adapters.engines()["fake:a"], LONG) == expected(engine, 2, LONG)


def test_a_request_under_way_ends_with_the_adapter_that_was_removed_and_then_its_weights_go(local):
    stepping, going_on = threading.Event(), threading.Event()

    def hold(items):
        if items[0].start:
            stepping.set()
            assert going_on.wait(60)

    engine = local(before_step=hold)
    engine.adapters.add("a", "a")
    front = engine.adapters.engines()["fake:a"]
    texts = []
    asking = threading.Thread(target=lambda: texts.append(answer(front)))
    asking.start()
    assert stepping.wait(60)
    engine.adapters.remove("a")
    assert engine.test_runner.adapters == {1: "a"}
    with pytest.raises(NotFoundError, match="'fake:a' was removed"):
        answer(front)
    assert not front.readiness().ready
    going_on.set()
    asking.join()
    assert texts == [expected(engine, 1)]
    engine._loop.call(lambda: None).result()
    assert engine.test_runner.adapters == {}


def test_what_can_not_be_added_changes_nothing(local):
    engine = local()
    engine.adapters.add("./a", "a")
    for source, name, error, words in (
        ("./other", "a", ConfigError, r"'a' already, from \./a"),
        ("./b", "a:b", ConfigError, "'a:b'"),
        ("./b", "", ConfigError, "''"),
        ("./b", "../b", ConfigError, r"'\.\./b'"),
        ("./b", "x" * 65, ConfigError, "1 to 64"),
        ("damaged", "b", ModelLoadError, "damaged"),
        ("another", "b", ModelLoadError, "another model"),
    ):
        with pytest.raises(error, match=words):
            engine.adapters.add(source, name)
    with pytest.raises(ModelLoadError):
        engine.adapters.add("damaged", "a", is_replacing=True)
    with pytest.raises(ConfigError, match=r"no adapter 'b'\. It has a"):
        engine.adapters.remove("b")
    assert [(each.name, each.source) for each in engine.adapters.infos()] == [("a", "./a")]
    assert answer(engine.adapters.engines()["fake:a"]) == expected(engine, 1)


def test_an_adapter_may_take_the_place_of_another(local):
    engine = local()
    engine.adapters.add("./a", "a")
    engine.adapters.add("./new", "a", is_replacing=True)
    engine._loop.call(lambda: None).result()
    assert set(engine.test_runner.adapters.values()) == {"./new"}
    assert [each.source for each in engine.adapters.infos()] == ["./new"]


def test_an_adapter_of_a_closed_engine_says_so(local):
    engine = local()
    engine.adapters.add("./a", "a")
    front = engine.adapters.engines()["fake:a"]
    engine.close()
    with pytest.raises(EngineUnavailableError):
        answer(front)
    with pytest.raises(EngineUnavailableError):
        engine.adapters.add("./b", "b")


def test_embeddings_go_through_the_adapter(local):
    engine = local(max_length=64)
    engine.adapters.add("./a", "a")
    asyncio.run(engine.adapters.engines()["fake:a"].embed(["one two"]))
    assert engine.test_runner.steps[-1][0].adapter == 1


def test_a_key_sees_the_names_that_it_was_given_only(local):
    engine = local()
    for name in "ab":
        engine.adapters.add(name, name)
    catalog = Catalog([engine], {"other": "fake:b"})
    for visible, names in {
        ("fake:a",): ["fake:a"],
        ("fake",): ["fake"],
        ("fake", "fake:b"): ["fake", "fake:b"],
    }.items():
        token = visible_models.set(visible)
        try:
            assert [each.info.id for each in catalog.listed()] == names
            assert catalog.get(None).info.id == names[0]
            assert list(catalog.aliases()) == (["other"] if "fake:b" in names else [])
        finally:
            visible_models.reset(token)


def test_an_alias_and_the_default_may_be_an_adapter_and_end_with_it(local):
    engine = local()
    engine.adapters.add("a", "a")
    catalog = Catalog([engine], {"x": "fake:a"}, default="fake:a")
    assert catalog.get(None).info.id == catalog.get("x").info.id == "fake:a"
    engine.adapters.remove("a")
    assert catalog.get(None).info.id == "fake"
    assert catalog.aliases() == {}
    with pytest.raises(NotFoundError, match="'x' is not served"):
        catalog.get("x")
    with pytest.raises(ConfigError, match="fake:a"):
        Catalog([engine], {"x": "fake:a"})


def test_a_model_with_a_fallback_has_its_adapters(local):
    engine = local()
    both = FallbackEngine([engine, MockEngine()], kept=[engine])
    adapters_of(both).add("./a", "a")
    assert answer(Catalog([both]).get("fake:a")) == expected(engine, 1)


def test_one_adapter_that_fails_in_a_step_fails_its_request_only(local):
    engine = local(settings=Settings(prefix_cache="off"))
    engine.adapters.add("./a", "a")
    front = engine.adapters.engines()["fake:a"]
    engine.test_runner.adapters.clear()
    _, events = asyncio.run(collect(front.generate(ask())))
    assert isinstance(events[-1], Failed)
    assert answer(engine) == expected(engine, 0)
    engine.test_runner.adapters[1] = "a"
