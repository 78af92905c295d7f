"""An engine made by hand is checked before it is served, and all that it lacks is named at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

import llmapi_kit as kit
from llmapi_kit.engines.engine_check import check_engine, find_problems
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ConfigError
from llmapi_kit.loading.lazy_engine import LazyEngine
from llmapi_kit.types import EngineInfo
from tests.loading.lazy_models import Machine
from tests.plugin_packages import without_collecting_garbage

pytestmark = pytest.mark.kernel


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch):
    without_collecting_garbage(monkeypatch)
    yield
    kit.stop_all()


class Nothing:
    pass


class HalfDone(MockEngine):
    async def generate(self, request):
        return []

    def embed(self, inputs, *, cache_salt=""):
        return []

    async def stats(self):
        return None

    def readiness(self):
        return True

    async def close(self):
        pass


def test_all_that_is_missing_is_named():
    with pytest.raises(ConfigError) as caught:
        check_engine(Nothing())
    message = str(caught.value)
    assert message.startswith("Nothing is not an engine yet:")
    for name in ("info", "generate", "embed", "tokenize", "tokenize_chat", "detokenize", "readiness", "stats", "close"):
        assert f"\n- {name}" in message
    assert "docs/backends.md" in message


def test_methods_of_the_wrong_kind_are_named():
    problems = "\n".join(find_problems(HalfDone()))
    assert "generate(request) must be an async generator" in problems
    assert "embed(…) must be a coroutine" in problems
    assert "stats() must not be 'async'" in problems
    assert "readiness() must return a Readiness, not True" in problems
    assert "close() must not be 'async'" in problems


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, "info.id is ''"),
        ({"context_length": -1}, "info.context_length is -1"),
        ({"created": None}, "info.created is None"),
        ({"created": 1.5}, "info.created is 1.5"),
        ({"capabilities": "chat"}, "info.capabilities is 'chat'"),
    ],
)
def test_fields_of_the_info_are_checked(change, message):
    engine = MockEngine()
    engine.info = replace(engine.info, **change)
    assert message in "\n".join(find_problems(engine))


def test_pictures_that_are_declared_must_be_made():
    class Blind(MockEngine):
        generate_images = None

    engine = Blind()
    engine.info = EngineInfo("blind", 0, 1, capabilities=("chat", "images"))
    assert list(find_problems(engine)) == ["generate_images(request) is missing, and info.capabilities has 'images'"]


def test_a_class_is_not_an_engine():
    with pytest.raises(ConfigError, match="it is a class: pass an engine"):
        kit.serve_engine(MockEngine)


def test_engines_of_every_kind_pass():
    machine = Machine()
    lazy = machine.model("a")
    assert isinstance(lazy, LazyEngine)
    assert list(find_problems(lazy)) == []
    assert list(find_problems(MockEngine())) == []


def test_a_checked_engine_is_served_with_the_options_of_launch_and_stays_its_makers():
    engine = MockEngine("by hand", name="mine")
    server = kit.serve_engine(engine, port=0, aliases={"gpt-3.5-turbo": "mine"})
    with server.client() as client:
        messages = [{"role": "user", "content": "hello"}]
        answer = client.chat.completions.create(model="gpt-3.5-turbo", messages=messages)
    assert answer.choices[0].message.content == "by hand"
    kit.stop_all()
    assert engine.readiness().ready
    with pytest.raises(ConfigError, match="Nothing is not an engine yet"):
        kit.serve_engine(Nothing(), port=0)
