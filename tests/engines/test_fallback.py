"""One engine stands in for another: when, for what, and how that shows."""

from __future__ import annotations

import asyncio
import logging

import pytest

from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.config import load_settings
from llmapi_kit.engines.base import Engine, ImageEngine
from llmapi_kit.engines.fallback import FallbackEngine
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import (
    ConfigError,
    ContextLengthError,
    EngineUnavailableError,
    GenerationError,
    InvalidRequestError,
    ModelNotFoundError,
    QueueFullError,
    RequestTimeoutError,
    UnsupportedFieldError,
    UpstreamError,
)
from llmapi_kit.loading.load_request import make_engine
from llmapi_kit.testing import EngineContract
from llmapi_kit.types import Accepted, Delta, Failed, ImageRequest, Readiness

from .conftest import ask, check_order, collect

pytestmark = pytest.mark.kernel


class Failing(MockEngine):
    """Raises before its first event, or fails with it, or after it."""

    def __init__(self, error, *, when="before", **options):
        super().__init__(**{"name": "failing", **options})
        self.error, self.when, self.num_asked = error, when, 0

    async def generate(self, request):
        self.num_asked += 1
        if self.when == "before":
            raise self.error
        if self.when == "hang":
            await asyncio.Event().wait()
        if self.when == "after":
            yield Accepted(1)
            yield Delta("half")
        yield Failed(self.error)

    async def embed(self, inputs, *, cache_salt=""):
        self.num_asked += 1
        if self.when == "hang":
            await asyncio.Event().wait()
        raise self.error


def answer(engine, request=None):
    return asyncio.run(collect(engine.generate(request or ask("one two"))))


WORTH_ANOTHER = [
    EngineUnavailableError("loading"),
    UpstreamError("down"),
    RequestTimeoutError("late"),
    GenerationError("broken"),
    QueueFullError("full"),
]


@pytest.mark.parametrize("when", ["before", "at once"])
@pytest.mark.parametrize("error", WORTH_ANOTHER, ids=lambda error: type(error).__name__)
def test_the_next_one_answers_when_the_first_can_not(error, when, caplog):
    caplog.set_level(logging.INFO)
    engine = FallbackEngine([Failing(error, when=when), MockEngine(name="second")])
    text, events = answer(engine)
    assert text == "one two"
    check_order(events)
    assert "second answers for failing" in caplog.text


@pytest.mark.parametrize(
    "error", [InvalidRequestError("no"), UnsupportedFieldError("no"), ContextLengthError("no")], ids=lambda e: e.code
)
def test_what_is_the_clients_fault_is_not_passed_on(error):
    engine = FallbackEngine([Failing(error), MockEngine()])
    with pytest.raises(type(error)) as caught:
        answer(engine)
    assert caught.value is error


def test_what_has_begun_is_not_begun_again():
    engine = FallbackEngine([Failing(UpstreamError("x"), when="after"), MockEngine()])
    text, events = answer(engine)
    assert text == "half"
    assert isinstance(events[-1], Failed)


def test_when_nobody_can_the_last_error_is_told():
    engine = FallbackEngine([Failing(UpstreamError("first")), Failing(QueueFullError("last", retry_after_s=3))])
    with pytest.raises(QueueFullError, match="last"):
        answer(engine)
    with pytest.raises(QueueFullError, match="last"):
        asyncio.run(engine.embed(["a"]))


def test_one_that_hangs_is_given_up_after_a_while():
    engine = FallbackEngine([Failing(None, when="hang"), MockEngine()], accept_timeout_s=0.05)
    assert answer(engine)[0] == "one two"
    assert len(asyncio.run(engine.embed(["a"]))) == 1


def test_one_that_says_it_can_not_answer_is_asked_last():
    first = Failing(UpstreamError("x"))
    first.readiness = lambda: Readiness(False, "its circuit is open")
    engine = FallbackEngine([first, MockEngine(name="second")])
    assert answer(engine)[0] == "one two"
    assert first.num_asked == 0
    assert engine.readiness() == Readiness(True, "failing: its circuit is open")
    assert answer(FallbackEngine([MockEngine(), first]))[0] == "one two"


def test_it_promises_what_all_of_them_can():
    first, second = MockEngine(name="a", context_length=100), MockEngine(name="b", context_length=50)
    second.info = second.info.__class__(**{**_fields(second.info), "capabilities": ("chat", "images")})
    engine = FallbackEngine([first, second])
    assert isinstance(engine, Engine)
    assert isinstance(engine, ImageEngine)
    assert (engine.info.id, engine.info.context_length) == ("a", 50)
    assert engine.info.capabilities == ("chat", "images")
    assert "a (llmapi_kit), then b (llmapi_kit)" in engine.info.description


def _fields(info):
    return {name: getattr(info, name) for name in type(info).__dataclass_fields__}


def test_embeddings_pictures_and_token_ids():
    engine = FallbackEngine([Failing(UpstreamError("x")), MockEngine()])
    assert len(asyncio.run(engine.embed(["a", "b"]))) == 2
    assert asyncio.run(engine.generate_images(ImageRequest(prompt="a")))[0].data
    ids = asyncio.run(engine.tokenize("a b"))
    assert asyncio.run(engine.detokenize(ids)) == "a b"
    assert len(asyncio.run(engine.tokenize_chat(ask("a b c")))) == 3


def test_leaving_stops_whoever_answers():
    second = MockEngine(name="second", delay_s=0.01, num_tokens=1000)
    engine = FallbackEngine([Failing(UpstreamError("x")), second])

    async def main():
        events = engine.generate(ask())
        await anext(events)
        await anext(events)
        assert engine.stats().num_running == 1
        await events.aclose()

    asyncio.run(main())
    assert (second.stats().num_running, second.stats().num_cancelled) == (0, 1)


def test_closing_closes_all_but_those_of_others():
    mine, theirs = MockEngine(), MockEngine()
    engine = FallbackEngine([mine, theirs], kept=[theirs])
    engine.close()
    engine.close()
    assert (mine.readiness().ready, theirs.readiness().ready) == (False, True)
    assert not engine.readiness().ready
    with pytest.raises(EngineUnavailableError):
        answer(engine)


def test_counters_are_of_all_of_them():
    engine = FallbackEngine([MockEngine(), MockEngine()])
    answer(engine)
    assert engine.stats().num_finished == 1
    assert engine.stats().num_completion_tokens == 2


def test_one_is_not_enough():
    with pytest.raises(ConfigError, match="two"):
        FallbackEngine([MockEngine()])


def test_a_model_is_loaded_with_names_and_engines_to_fall_back_to():
    own = MockEngine(reply="own")
    with pytest.raises(ModelNotFoundError):
        make_engine(parse_spec("openai:gpt-5"), load_settings(), api_key="k", fallback=["nobody:x"])
    with pytest.raises(ConfigError, match="int"):
        make_engine(parse_spec("openai:gpt-5"), load_settings(), api_key="k", fallback=[3])
    spec = parse_spec("compatible:http://127.0.0.1:9/v1#m")
    engine = make_engine(spec, load_settings(upstream_retries=0), fallback=own)
    assert (engine.info.id, engine.info.owned_by) == ("m", "127.0.0.1")
    assert answer(engine)[0] == "own"
    engine.close()
    assert own.readiness().ready
    engine = make_engine(spec, load_settings(upstream_retries=0), fallback="mock")
    assert answer(engine)[0] == "one two"
    engine.close()


class TestContract(EngineContract):
    """What every engine promises, kept by the second one while the first one is down."""

    def make_engine(self):
        return FallbackEngine([Failing(UpstreamError("down")), MockEngine(delay_s=0.002, num_tokens=180)])
