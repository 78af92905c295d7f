"""`kit.chat`: its targets, what it refuses, comparisons and what it exports. Also over HTTP."""

from __future__ import annotations

import json

import pytest

import llmapi_kit as kit
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ConfigError, InvalidRequestError, LlmApiKitError, ServerNotFoundError
from llmapi_kit.notebook.chat.target import URL
from llmapi_kit.types import Delta

from .conftest import DEADLINE_S, ScriptedEngine, call

pytestmark = pytest.mark.kernel


@pytest.fixture
def server():
    engine = ScriptedEngine([Delta("", reasoning="hmm"), "Hel", "lo"], [call("f")], ["Bye", ScriptedEngine.PAUSE])
    server = kit.launch([engine, MockEngine(name="other")], port=0)
    server.engine = engine
    yield server
    server.stop(0)


@pytest.mark.slow
def test_every_target_answers(server):
    targets = [None, server, kit.connect(server.url), server.url, server.base_url, kit.load("mock"), "mock"]
    for target in targets:
        assert kit.chat(target, model=None if target in targets[-2:] else "other").send("Hello!") == "Hello!"
    remote = f"http://127.0.0.1:{server.port}/v1/"
    assert kit.chat(remote, api_key=server.api_key, model="other").send("Hello!") == "Hello!"


@pytest.mark.parametrize(
    ("text", "is_url"),
    [
        ("http://a", True),
        ("localhost", True),
        ("host.example:8000/v1", True),
        ("ollama:llama3.2", False),
        ("Qwen/Qwen3-0.6B", False),
    ],
)
def test_urls_are_told_from_models(text, is_url):
    assert bool(URL.match(text)) is is_url


def test_nothing_to_chat_with_says_what_to_do():
    with pytest.raises(ServerNotFoundError, match="Launch one"):
        kit.chat()


@pytest.mark.parametrize(
    ("target", "options", "error", "said"),
    [
        (3, {}, ConfigError, "can't be with int"),
        ([], {}, ConfigError, "at least one"),
        ("mock", {"api_key": "k"}, ConfigError, "api_key goes with a URL"),
        ("mock", {"kind": "shiny"}, ConfigError, "'auto', 'rich' or 'plain'"),
        ("mock", {"temperature": 3}, InvalidRequestError, "temperature"),
        ("mock", {"seed": 1.5}, ConfigError, "whole number"),
        ("mock", {"system": 5}, ConfigError, "a text"),
    ],
)
def test_arguments_that_can_not_be_used_are_refused_by_name(target, options, error, said):
    with pytest.raises(error, match=said):
        kit.chat(target, **options)


def test_option_that_nobody_knows_is_refused(make_chat):
    chat, _ = make_chat()
    with pytest.raises(ConfigError, match="no option 'temprature'"):
        chat.set(temprature=1)


def test_reasoning_calls_and_counts_come_over_http(server):
    chat = server.chat()
    assert chat.send("Hi") == "Hello"
    message = chat._sessions[0].conversation.last()
    assert (message.reasoning, message.num_prompt_tokens, message.num_completion_tokens) == ("hmm", 7, 3)
    assert message.model == "scripted"
    chat.tools(f)
    chat.send("call")
    assert chat.messages[-2]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}


def f():
    return "f"


@pytest.mark.slow
def test_stop_over_http_ends_the_generation_on_the_server(server):
    chat = server.chat()
    chat.send("1")
    chat.send("2")
    chat._sessions[0].allow(False)
    assert server.engine.has_paused.wait(DEADLINE_S)
    chat.stop()
    assert chat._sessions[0].wait(DEADLINE_S)
    assert server.engine.was_cancelled.wait(DEADLINE_S)
    assert chat._sessions[0].conversation.last().status == "stopped"


def test_stopped_server_and_dead_connection_say_what_to_do(server):
    ours, remote = server.chat(), kit.chat(kit.connect(server.url))
    server.stop(0)
    with pytest.raises(LlmApiKitError, match=r"is stopped\. Launch it again, and run kit\.chat"):
        ours.send("x")
    with pytest.raises(LlmApiKitError, match=r"does not answer\. It was stopped, or its kernel ended"):
        remote.send("x")


@pytest.mark.parametrize(
    ("options", "said"),
    [({"model": "gpt-17"}, "Choose another model under Settings"), ({"api_key": "sk-wrong"}, "Pass the right key")],
)
def test_refusals_of_the_server_say_what_to_do(server, options, said):
    chat = kit.chat(server.url, **{"api_key": server.api_key, **options})
    with pytest.raises(LlmApiKitError, match=said) as caught:
        chat.send("x")
    assert server.api_key not in str(caught.value)


def test_key_goes_to_the_server_it_was_given_for_only(monkeypatch, server):
    monkeypatch.setenv("LLMAPI_KIT_API_KEY", "secret")
    chat = kit.chat(f"{server.url}/other/api")
    assert chat._sessions[0].backend.url == f"{server.url}/other/api"
    assert chat._sessions[0].backend._remote().api_key is None


def test_comparison_asks_all_and_keeps_them_apart():
    one, two = ScriptedEngine(["1"], name="one"), ScriptedEngine(["2"], name="two")
    both = kit.chat([one, two])
    assert both.send("which?") == ["1", "2"]
    assert [each[-1]["content"] for each in both.messages] == ["1", "2"]
    assert "which?" in both.to_markdown()
    both.close()


def test_comparison_with_one_that_answers_still_asks_nobody():
    one, two = ScriptedEngine([ScriptedEngine.PAUSE]), ScriptedEngine()
    both = kit.chat([one, two])
    both.send("go", wait=False)
    assert one.has_paused.wait(DEADLINE_S)
    assert both._sessions[1].wait(DEADLINE_S)
    with pytest.raises(ConfigError):
        both.send("again")
    assert len(two.requests) == 1
    both.close()


def test_exports_hold_the_conversation_and_no_key(server, tmp_path):
    chat = server.chat(model="other", system="Be brief.", temperature=0.5)
    chat.send("Say ```\nx")
    for suffix in (".md", ".json", ".py"):
        chat.save(tmp_path / f"chat{suffix}")
        text = (tmp_path / f"chat{suffix}").read_text()
        assert "Be brief." in text
        assert server.api_key not in text
    assert json.loads(chat.to_json())["messages"] == chat.messages
    with pytest.raises(ConfigError, match=r"\.md, \.json or \.py"):
        chat.save(tmp_path / "chat.txt")
    with pytest.raises(ConfigError, match="can't be written"):
        chat.save(tmp_path / "no" / "chat.md")


@pytest.mark.parametrize("is_served", [True, False])
def test_exported_python_asks_the_same_again(server, is_served, monkeypatch, capsys):
    chat = kit.chat(server, model="other", temperature=0.5) if is_served else kit.chat("mock", temperature=0.5)
    chat.send("Hello 'you'\n")
    monkeypatch.setenv("LLMAPI_KIT_API_KEY", server.api_key)
    exec(compile(chat.to_python(), "chat.py", "exec"), {})
    assert capsys.readouterr().out.strip() == "Hello 'you'"
