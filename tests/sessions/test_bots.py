"""Bot types: who answers for them, and what the setting may say."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from llmapi_kit.config import load_settings
from llmapi_kit.engines.catalog import Catalog
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import BotTypeError, BotUnavailableError, ConfigError, InvalidRequestError
from llmapi_kit.sessions.bots import Bots, engine_of

pytestmark = pytest.mark.kernel


def engine(name, *capabilities):
    made = MockEngine(name=name)
    made.info = type(made.info)(name, 100, 0, capabilities=capabilities)
    return made


CHAT = engine("small", "chat", "completions")
EMBEDDER = engine("vectors", "embeddings")
PAINTER = engine("painter", "images")
WELM = engine("welm:xl", "completions")


def answers_for(bot_type, *engines, model="", **bots):
    found = engine_of(Bots(bots).get(bot_type), model, Catalog(engines))
    return asyncio.run(found).info.id


@pytest.mark.parametrize(
    ("bot_type", "expected"),
    [("chatgpt", "small"), ("gpt3", "small"), ("gpt-embedding", "vectors"), ("dall-e", "painter"), ("welm", "welm:xl")],
)
def test_without_a_setting_the_first_model_that_can_answers(bot_type, expected):
    assert answers_for(bot_type, CHAT, EMBEDDER, PAINTER, WELM) == expected


def test_a_model_of_the_family_is_known_by_its_provider_too():
    upstream = engine("xl", "completions")
    upstream.info = replace(upstream.info, owned_by="welm")
    assert answers_for("welm", CHAT, upstream) == "xl"


class Unloaded(Catalog):
    """A catalog whose engines tell what they can do once they were found."""

    def __init__(self, *engines):
        super().__init__(engines)
        self.found = []

    async def find(self, model):
        engine = self.get(model)
        self.found.append(engine.info.id)
        engine.info = replace(engine.info, capabilities=("chat", "embeddings"))
        return engine


def test_only_the_default_is_loaded_to_see_what_it_can_do():
    catalog = Unloaded(engine("large"), engine("larger"))
    assert asyncio.run(engine_of(Bots({}).get("gpt-embedding"), "", catalog)).info.id == "large"
    assert set(catalog.found) == {"large"}
    catalog = Unloaded(engine("large"), engine("larger"))
    with pytest.raises(BotUnavailableError, match=r"'images'.*known once they are loaded: larger\."):
        asyncio.run(engine_of(Bots({}).get("dall-e"), "", catalog))
    assert catalog.found == ["large"]


def test_the_default_model_comes_before_others_that_can():
    assert answers_for("chatgpt", engine("a", "chat"), engine("b", "chat")) == "a"


@pytest.mark.parametrize(
    ("bot_type", "why"),
    [
        ("gpt-embedding", r"needs a model that can do 'embeddings'.*LLMAPI_KIT_BOTS='\{\"gpt-embedding\""),
        ("dall-e", "'images'"),
        ("welm", "a model of 'welm' that can do 'completions'"),
        ("newbing", "retired.*LLMAPI_KIT_BOTS"),
    ],
)
def test_a_bot_that_nothing_can_answer_for_says_what_to_configure(bot_type, why):
    with pytest.raises(BotUnavailableError, match=why):
        answers_for(bot_type, CHAT)


@pytest.mark.parametrize("given", ["small", {"model": "small"}])
def test_an_administrator_maps_new_bing_and_adds_bots(given):
    assert answers_for("newbing", WELM, CHAT, newbing=given) == "small"
    assert answers_for("tutor", WELM, CHAT, tutor=given) == "small"


def test_a_known_bot_keeps_its_kind_when_it_is_mapped():
    assert Bots({"gpt3": "small"}).get("gpt3").kind == "completion"
    assert answers_for("welm", CHAT, welm="small") == "small"


def test_a_bot_mapped_to_a_model_that_is_not_here_or_can_not_says_so():
    with pytest.raises(BotUnavailableError, match="'gone' is not served here"):
        answers_for("chatgpt", CHAT, chatgpt="gone")
    with pytest.raises(BotUnavailableError, match="'vectors' can't"):
        answers_for("chatgpt", EMBEDDER, CHAT, chatgpt="vectors")


def test_a_session_may_ask_for_any_model_that_can_do_what_its_bot_needs():
    assert answers_for("chatgpt", engine("other", "chat"), CHAT, model="small") == "small"
    with pytest.raises(InvalidRequestError, match=r"settings\.model: .*'vectors' can't") as caught:
        answers_for("chatgpt", CHAT, EMBEDDER, model="vectors")
    assert caught.value.param == "settings.model"
    with pytest.raises(InvalidRequestError, match=r"settings\.model: .*'gpt-4' is not served here"):
        answers_for("chatgpt", CHAT, model="gpt-4")


def test_an_unknown_bot_is_refused_with_those_there_are():
    with pytest.raises(BotTypeError, match=r"'gpt5'.*mock, chatgpt.*tutor"):
        Bots({"tutor": "m"}).get("gpt5")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (5, "is 5; it takes a model's name"),
        ({"modle": "x"}, "has 'modle'; it takes model, kind"),
        ({"kind": "chatty"}, "kind is 'chatty'; it takes chat, completion"),
        ({"model": 5}, "model is 5"),
        ({"pre": "words"}, "pre is a list"),
        ({"pre": ["nothing"]}, "pre.0 is 'nothing': a step is one of words, redact"),
        ({"pre": ["no.such_module:Step"]}, "can't be imported"),
        ({"pre": ["llmapi_kit.errors:ConfigError"]}, "has no rewrite"),
        ({"post": ["builtins:dict"]}, "has no reply_filter"),
        ({"pre": ["words"]}, "needs words"),
        ({"pre": [{"step": "words", "word": ["x"]}]}, "not made with word"),
        ({"kind": "embedding", "system": "x"}, "replies with no text: system"),
        ({"kind": "image", "post": [{"step": "words", "words": ["x"]}]}, "replies with no text: post"),
        ({"kind": "echo", "model": "x"}, "has no model"),
    ],
)
def test_a_setting_that_can_not_be_is_refused_by_name(given, why):
    with pytest.raises(ConfigError, match=why) as caught:
        Bots({"tutor": given})
    assert "'tutor'" in str(caught.value)


def test_bots_come_from_the_environment_as_json(monkeypatch):
    monkeypatch.setenv("LLMAPI_KIT_BOTS", '{"newbing": "small"}')
    assert load_settings().bots == {"newbing": "small"}
    monkeypatch.setenv("LLMAPI_KIT_BOTS", "{newbing: small}")
    with pytest.raises(ConfigError, match=r"bots.*LLMAPI_KIT_BOTS.*not JSON"):
        load_settings()
    monkeypatch.setenv("LLMAPI_KIT_BOTS", "[1]")
    with pytest.raises(ConfigError, match="bots"):
        load_settings()
