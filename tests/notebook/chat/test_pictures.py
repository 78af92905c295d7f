"""Questions with pictures: who is asked, what branches, exports and saved notebooks have of them."""

from __future__ import annotations

import json

import pytest

import llmapi_kit as kit
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ConfigError, LlmApiKitError
from llmapi_kit.notebook.chat.transcript import transcript

from .conftest import SeeingEngine
from .test_attachments import file_of

PICTURE = file_of()


@pytest.fixture
def seeing():
    """A chat with a model that sees, and its engine."""
    engine = SeeingEngine(["one"], ["two"], ["three"])
    chat = kit.chat(engine, temperature=0.5)
    yield chat, engine
    chat.close()


def kinds(message):
    return [part["type"] for part in message["content"]]


def test_pictures_stand_before_the_question_and_stay_in_the_conversation(seeing):
    chat, engine = seeing
    assert chat.send("what?", images=[PICTURE, PICTURE]) == "one"
    chat.send("and?")
    first, _, last = engine.requests[1].messages
    assert kinds(first) == ["image_url", "image_url", "text"]
    assert last["content"] == "and?"
    assert chat.messages[0] == first


def test_retry_and_edit_keep_the_pictures_and_edit_may_add_and_drop_some(seeing):
    chat, engine = seeing
    session = chat._sessions[0]
    chat.send("what?", images=[PICTURE])
    session.retry()
    assert session.wait(20)
    question = session.conversation.path()[0]
    session.edit(question.id, "really?", question.images)
    assert session.wait(20)
    assert [len(kinds(each.messages[0])) for each in engine.requests] == [2, 2, 3]
    session.edit(question.id, "and without?", kept=[])
    assert session.wait(20)
    assert chat.messages[0]["content"] == "and without?"
    session.show(question.id)
    assert kinds(chat.messages[0]) == ["image_url", "text"]


def test_model_for_text_is_not_asked_about_pictures():
    chat = kit.chat("mock")
    with pytest.raises(ConfigError, match=r"mock takes text only\. Leave the pictures out"):
        chat.send("what?", images=[PICTURE])
    assert chat.messages == []


def test_comparison_with_one_that_takes_text_only_asks_nobody():
    engine = SeeingEngine()
    both = kit.chat([engine, MockEngine(name="blind")])
    with pytest.raises(ConfigError, match="blind takes text only"):
        both.send("what?", images=[PICTURE])
    assert engine.requests == []
    both.close()


def test_comparison_asks_all_about_the_same_pictures():
    engines = [SeeingEngine(["1"], name="one"), SeeingEngine(["2"], name="two")]
    both = kit.chat(engines)
    assert both.send("what?", images=[PICTURE]) == ["1", "2"]
    assert engines[0].requests[0].messages == engines[1].requests[0].messages
    assert transcript(both._sessions)["text/html"].count("<img ") == 2
    both.close()


def test_model_that_nobody_says_anything_of_is_asked_and_refuses_itself():
    lazy = kit.load("mock", lazy=True)
    with pytest.raises(LlmApiKitError, match="takes text only"):
        kit.chat(lazy).send("what?", images=[PICTURE])


def test_model_without_a_template_refuses_pictures():
    engine = SeeingEngine(capabilities=("completions", "vision"))
    with pytest.raises(LlmApiKitError, match="is a picture, and this model takes text only"):
        kit.chat(engine).send("what?", images=[PICTURE])


@pytest.fixture
def server():
    with kit.launch([SeeingEngine(["over HTTP"]), MockEngine(name="blind")], port=0) as server:
        yield server


@pytest.mark.slow
def test_over_http_the_list_of_models_says_who_sees(server):
    chat = server.chat()
    assert chat.send("what?", images=[PICTURE]) == "over HTTP"
    with pytest.raises(ConfigError, match="blind takes text only"):
        server.chat(model="blind").send("what?", images=[PICTURE])


@pytest.mark.slow
def test_request_that_is_too_large_is_answered_with_what_to_do(server):
    chat = server.chat()
    with pytest.raises(LlmApiKitError, match=r"larger than 20,000,000 bytes.*Begin a new chat with fewer or smaller"):
        chat.send("what?", images=[file_of(1600, 1500)] * 3)


def test_json_and_python_have_the_pictures_and_text_says_that_they_were_there(seeing, monkeypatch, capsys):
    chat, _ = seeing
    chat.send("what?", images=[PICTURE])
    assert json.loads(chat.to_json())["messages"] == chat.messages
    assert "*(picture 1: 40 x 30 pixels)*" in chat.to_markdown()
    assert "base64" not in chat.to_markdown()
    asked = []
    monkeypatch.setattr(kit, "load", lambda name: type("Model", (), {"ask": lambda self, m, **kw: asked.append(m)})())
    exec(compile(chat.to_python(), "chat.py", "exec"), {})
    assert asked == [chat.messages[:1]]


@pytest.mark.slow
def test_saved_notebook_shows_small_pictures_and_no_markup_of_an_address(seeing):
    chat, _ = seeing
    large, web = file_of(1200, 1000), 'https://x.example/"><script>alert(1)</script>'
    chat.send("what?", images=[large, web])
    html = transcript(chat._sessions)["text/html"]
    assert html.count('<img src="data:image/jpeg;base64,') == 1
    assert 'alt="Picture 1: 1,200 x 1,000 pixels"' in html
    assert "Picture 2: https://x.example/&quot;&gt;&lt;script&gt;" in html
    assert "<script" not in html
    assert len(html) < 40_000 < len(large)
