"""Asking, stopping, branching and calling functions, from code; what the widgets do goes the same ways."""

from __future__ import annotations

import threading

import pytest

from llmapi_kit.errors import ConfigError, ContextLengthError, LlmApiKitError
from llmapi_kit.types import Delta

from .conftest import DEADLINE_S, ScriptedEngine, call

PAUSE = ScriptedEngine.PAUSE
pytestmark = pytest.mark.kernel


def last(chat):
    return chat._sessions[0].conversation.last()


def test_answer_has_its_text_tokens_and_speed(make_chat):
    chat, _ = make_chat(["Hello ", "there ", "you"])
    assert chat.send("Hi") == "Hello there you"
    message = last(chat)
    assert (message.status, message.model, message.finish_reason) == ("done", "scripted", "stop")
    assert (message.num_prompt_tokens, message.num_completion_tokens) == (7, 3)
    assert message.ttft_s > 0


def test_whole_conversation_options_and_system_prompt_reach_the_model(make_chat):
    chat, engine = make_chat(["one"], ["two"], system="Be brief.", temperature=0.5, seed=3)
    chat.send("first")
    chat.set(max_tokens=9)
    chat.send("second")
    request = engine.requests[1]
    assert [each["content"] for each in request.messages] == ["Be brief.", "first", "one", "second"]
    assert (request.sampling.temperature, request.sampling.seed, request.sampling.max_tokens) == (0.5, 3, 9)


def test_reasoning_is_kept_apart_and_not_told_again(make_chat):
    chat, engine = make_chat([Delta("", reasoning="hmm "), Delta("", reasoning="so"), "Yes."], ["ok"])
    assert chat.send("?") == "Yes."
    assert last(chat).reasoning == "hmm so"
    chat.send("and?")
    assert "hmm" not in str(engine.requests[1].messages)


@pytest.mark.parametrize("script", [[PAUSE], ["some ", PAUSE, "more"]], ids=["before the first token", "amid"])
def test_stop_ends_the_generation_and_keeps_what_came(make_chat, script):
    chat, engine = make_chat(script)
    assert "some ".startswith(chat.send("go", wait=False))  # what has come so far
    assert engine.has_paused.wait(DEADLINE_S)
    chat.stop()
    assert chat._sessions[0].wait(DEADLINE_S)
    assert engine.was_cancelled.is_set()
    assert (last(chat).status, last(chat).content) == ("stopped", "".join(p for p in script[:-1] if p is not PAUSE))
    assert chat.send("go on") == "again"


def test_stop_right_after_sending_leaves_no_answer_open(make_chat):
    chat, _ = make_chat(["x", PAUSE])
    chat.send("go", wait=False)
    chat.stop()
    assert chat._sessions[0].wait(DEADLINE_S)
    assert last(chat).status == "stopped"


def test_interrupted_cell_stops_its_answer(make_chat, monkeypatch):
    chat, engine = make_chat([PAUSE])
    session = chat._sessions[0]

    def interrupt(timeout_s=None):
        assert engine.has_paused.wait(DEADLINE_S)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        chat.send("go")
    assert session.wait(DEADLINE_S)
    assert engine.was_cancelled.is_set()


def test_second_question_during_an_answer_is_refused(make_chat):
    chat, engine = make_chat([PAUSE, "done"])
    chat.send("go", wait=False)
    assert engine.has_paused.wait(DEADLINE_S)
    for action in (lambda: chat.send("again"), chat.clear, lambda: chat._sessions[0].retry()):
        with pytest.raises(ConfigError, match="Stop it first"):
            action()
    engine.go_on.set()
    assert chat._sessions[0].wait(DEADLINE_S)
    assert last(chat).content == "done"


def test_retry_and_edit_make_branches_that_can_be_shown_again(make_chat):
    chat, engine = make_chat(["a1"], ["a2"], ["a3"])
    session = chat._sessions[0]
    chat.send("q1")
    question, first = session.conversation.path()
    session.retry()
    assert session.wait(DEADLINE_S)
    assert [message["content"] for message in chat.messages] == ["q1", "a2"]
    session.edit(question.id, "q2")
    assert session.wait(DEADLINE_S)
    assert [message["content"] for message in chat.messages] == ["q2", "a3"]
    assert [each["content"] for each in engine.requests[2].messages] == ["q2"]
    session.show(first.id)
    assert [message["content"] for message in chat.messages] == ["q1", "a1"]


def test_error_stands_in_the_chat_and_is_raised_from_code(make_chat):
    chat, _ = make_chat(["part ", ContextLengthError("The context is full.")], [ValueError("odd")])
    with pytest.raises(LlmApiKitError, match=r"The context is full\. Begin a new chat"):
        chat.send("x")
    assert (last(chat).status, last(chat).content) == ("failed", "part ")
    with pytest.raises(LlmApiKitError, match="ValueError: odd"):
        chat.send("y")


def test_call_waits_until_it_is_allowed_and_the_model_gets_the_result(make_chat):
    chat, engine = make_chat([call("add", '{"a": 1,'), call_rest(' "b": 2}')], ["It is 3."])
    threads = []

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        threads.append(threading.current_thread())
        return a + b

    chat.tools(add)
    assert chat.send("1 + 2?") == ""
    assert (last(chat).status, threads) == ("waiting", [])
    chat.run_tools()
    assert chat.messages[-2] == {"role": "tool", "tool_call_id": "call_add_0", "content": "3"}
    assert chat.messages[-1]["content"] == "It is 3."
    assert engine.requests[0].tools.tools[0]["function"]["name"] == "add"
    assert threads[0] is not threading.main_thread()


def call_rest(arguments):
    piece = call("", arguments)
    return Delta("", tool_calls=(type(piece.tool_calls[0])(0, "", "", arguments),))


def test_refused_call_and_a_question_instead_tell_the_model_so(make_chat):
    chat, _ = make_chat([call("f")], ["ok"], [call("f")], ["fine"])
    chat.tools(f)
    chat.send("1")
    chat.run_tools(allow=False)
    assert "did not allow" in chat.messages[-2]["content"]
    chat.send("2")
    assert chat.send("never mind") == "fine"
    assert "did not allow" in chat.messages[-3]["content"]
    with pytest.raises(ConfigError, match="No call waits"):
        chat.run_tools()


def f():
    return "f"


def test_calls_run_by_themselves_where_that_is_set_and_errors_go_to_the_model(make_chat):
    def fail():
        raise OSError("disk full")

    chat, _ = make_chat([call("f"), call("fail", index=1), call("unknown", index=2)], ["done"])
    chat.tools(f, fail, run="always")
    assert chat.send("go") == "done"
    results = [message["content"] for message in chat.messages if message["role"] == "tool"]
    assert results == ["f", "Error: disk full", "Error: there is no function 'unknown'; there is f, fail"]


def test_model_that_only_calls_is_stopped(make_chat):
    chat, engine = make_chat(*[[call("f")]] * 20)
    chat.tools(f, run="always")
    with pytest.raises(LlmApiKitError, match="called functions 10 times"):
        chat.send("go")
    assert len(engine.requests) == 10


def test_stop_while_a_function_runs_gives_the_call_an_end(make_chat):
    began, go_on = threading.Event(), threading.Event()

    def wait_long():
        began.set()
        go_on.wait(DEADLINE_S)

    chat, _ = make_chat([call("wait_long")], ["fine"])
    chat.tools(wait_long, run="always")
    chat.send("go", wait=False)
    assert began.wait(DEADLINE_S)
    chat.stop()
    assert chat._sessions[0].wait(DEADLINE_S)
    go_on.set()
    assert chat.send("on") == "fine"
    assert "stopped" in next(m["content"] for m in chat.messages if m["role"] == "tool")


def test_calls_without_functions_end_the_answer(make_chat):
    chat, _ = make_chat([call("f")])
    assert chat.send("go") == ""
    chat.run_tools(allow=False)
    assert chat.messages[-1]["content"] == "again"


def test_run_is_one_of_two_words(make_chat):
    chat, _ = make_chat()
    with pytest.raises(ConfigError, match="'ask' or 'always'"):
        chat.tools(f, run="never")
