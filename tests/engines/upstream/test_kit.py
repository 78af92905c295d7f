"""Providers' models as a cell meets them: loaded by name, served beside others, and never a key in sight."""

from __future__ import annotations

import gc

import pytest

import llmapi_kit as kit
from llmapi_kit import kit as state
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ConfigError

from .faulty import CANARY, GOOD, FaultyUpstream, error, events

pytestmark = pytest.mark.kernel


@pytest.fixture
def upstream():
    with FaultyUpstream([events(*GOOD)]) as server:
        yield server
        kit.stop_all()


def test_the_same_call_gives_the_same_model_and_another_key_another(upstream):
    name = f"openai+{upstream.url}#m"
    first = kit.load(name, api_key=CANARY)
    assert kit.load(name, api_key=CANARY) is first
    assert kit.load(name, api_key="another") is not first
    assert first.ask("Hello") == "one two"
    assert upstream.keys[-1] == CANARY


def test_no_key_in_anything_that_is_kept_or_shown(upstream):
    model = kit.load(f"openai+{upstream.url}#m", api_key=CANARY, served_name="mine")
    server = kit.launch([model, MockEngine()], port=0)
    with server.client() as client:
        answer = client.chat.completions.create(model="mine", messages=[{"role": "user", "content": "x"}])
        assert answer.choices[0].message.content == "one two"
        assert {card.id: card.owned_by for card in client.models.list()} == {"mine": "127.0.0.1", "mock": "llmapi_kit"}
        cards = client.get("/models", cast_to=object)
    shown = f"{model} {server} {server.logs(500)} {cards} {server.stats()} {state._own.models._models.keys()}"
    assert CANARY not in shown
    assert upstream.keys == [CANARY]


def test_a_key_of_several_and_a_model_to_fall_back_to(upstream):
    upstream.script = [error(401), error(401), events(*GOOD)]
    model = kit.load(f"openai+{upstream.url}#m", api_key=["k-one", "k-two"], fallback="mock")
    assert model.ask("Hello there") == "Hello there"  # the mock's
    assert upstream.keys == ["k-one", "k-two"]


def test_an_argument_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"device.*It takes api_key, base_url"):
        kit.load("openai:gpt-5", api_key="k", device="cpu")


def test_settings_of_the_connection_are_taken(upstream):
    model = kit.load(f"openai+{upstream.url}#m", upstream_retries=0, upstream_silence_s=5)
    assert model.engine._client.settings.upstream_silence_s == 5


def test_a_closed_model_leaves_nothing_open(upstream):
    model = kit.load(f"openai+{upstream.url}#m")
    assert model.ask("x") == "one two"
    model.close()
    gc.collect()  # a socket that was left open warns, and a warning is an error
