# ruff: noqa: RUF001  (the markers are spelled so)
from __future__ import annotations

import pytest

from llmapi_kit.dialects.deepseek import DeepSeekCalls
from tests.dialects.replies import Reply, outputs, read

pytestmark = pytest.mark.kernel

DEEPSEEK = DeepSeekCalls()
ARGUMENTS = '{"city": "<｜tool▁call▁end｜> ``` 北京"}'
CALLED = (("get_time", ARGUMENTS),)
FENCED = f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_time\n```json\n{ARGUMENTS}\n```<｜tool▁call▁end｜>"
SHORT = f"<｜tool▁call▁begin｜>get_time<｜tool▁sep｜>{ARGUMENTS}<｜tool▁call▁end｜>"


def calls(text):
    return f"<｜tool▁calls▁begin｜>{text}<｜tool▁calls▁end｜>"


@pytest.mark.parametrize("text", [calls(FENCED), calls(SHORT), SHORT, FENCED, calls(f"\n{SHORT}\n") + "\n"])
def test_both_generations_of_the_format_are_read(text):
    assert read(DEEPSEEK, text) == Reply(calls=CALLED)


@pytest.mark.parametrize("text", [f"{FENCED}\n{FENCED}", SHORT + SHORT])
def test_several_calls(text):
    assert read(DEEPSEEK, f"我来看看。\n\n{calls(text)}") == Reply("我来看看。", "", CALLED * 2)


def test_a_call_without_arguments_has_an_empty_object():
    text = calls("<｜tool▁call▁begin｜>get_time<｜tool▁sep｜><｜tool▁call▁end｜>")
    assert read(DEEPSEEK, text) == Reply(calls=(("get_time", "{}"),))


@pytest.mark.parametrize(
    "text",
    [
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁begin｜> is a marker",
        "<｜tool▁call▁begin｜>get_time",
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_time\nnow",
        "<｜tool▁call▁begin｜><｜tool▁sep｜>{}",
        "<｜tool▁ca",
    ],
)
def test_what_is_no_call_is_text_in_full(text):
    assert read(DEEPSEEK, text) == Reply(text)


def test_what_follows_a_broken_call_is_text():
    text = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_time<｜tool▁sep｜>{} and so on"
    assert read(DEEPSEEK, text) == Reply(" and so on", "", (("get_time", "{}"),))


@pytest.mark.parametrize("one", [FENCED, SHORT])
def test_what_follows_a_call_in_place_of_the_last_marker_is_text(one):
    assert read(DEEPSEEK, f"<｜tool▁calls▁begin｜>{one}\nSo.") == Reply("\nSo.", "", CALLED)


def test_an_object_that_is_not_closed_ends_with_its_marker():
    text = calls(SHORT.replace('"}<', '"<'))
    assert read(DEEPSEEK, text) == Reply(calls=(("get_time", ARGUMENTS[:-1]),))


def test_arguments_stream_as_they_come():
    head, tail = calls(FENCED).split("ci")
    found = outputs(
        DEEPSEEK, "", pieces=["<｜tool▁calls▁begin｜>", *(head[len("<｜tool▁calls▁begin｜>") :] + "ci", tail)]
    )
    assert [[(d.name, d.arguments) for d in piece.tool_calls] for piece in found] == [
        [],
        [("get_time", '{"ci')],
        [("", ARGUMENTS[4:])],
        [],
    ]


def test_reasoning_that_the_prompt_opened_precedes_the_calls():
    assert read(DEEPSEEK, f"Hm.\n</think>\n\n{calls(FENCED)}", inside=True) == Reply("", "Hm.", CALLED)
