from __future__ import annotations

import pytest

from llmapi_kit.dialects.llama import LlamaCalls
from tests.dialects.replies import Reply, outputs, read

pytestmark = pytest.mark.kernel

LLAMA = LlamaCalls()
CALL = '{"name": "get_time", "parameters": {"city": "Oslo"}}'
CALLED = (("get_time", '{"city": "Oslo"}'),)


@pytest.mark.parametrize("text", [CALL, f"\n\n{CALL}\n", f"<|python_tag|>{CALL}", f"<|python_tag|> {CALL}"])
def test_a_bare_object_with_a_known_name_is_a_call(text):
    assert read(LLAMA, text) == Reply(calls=CALLED)


@pytest.mark.parametrize("between", ["; ", ";", " ;\n", "<|python_tag|>", "\n<|python_tag|>\n"])
def test_several_calls(between):
    assert read(LLAMA, CALL + between + CALL) == Reply(calls=CALLED * 2)


@pytest.mark.parametrize(
    "text",
    [
        '{"parameters": {"city": "Oslo"}, "name": "get_time"}',
        '{"type": "function", "name": "get_time", "arguments": {"city": "Oslo"}}',
        '{"id": 7, "name": "get_time", "parameters": {"city": "Oslo"}}',
    ],
)
def test_a_call_in_another_order_or_with_its_type(text):
    assert read(LLAMA, text) == Reply(calls=CALLED)


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Ada", "parameters": {"city": "Oslo"}}',
        '{"name": "get_time"}',
        '{"name": "get_time", "age": 7}',
        '{"city": "Oslo"}',
        '{"city": "Oslo", "name": "get_time", "parameters": {}}',
        "{}",
        "{",
        '{"name": "get_ti',
        '{"name": "get_time", ',
        "{not json}",
        '<|python_tag|>print("hi")',
        '<|python_tag|>brave_search.call(query="Oslo")',
        f"Sure: {CALL}",
        f"```json\n{CALL}\n```",
    ],
)
def test_anything_else_is_text_in_full(text):
    assert read(LLAMA, text) == Reply(text)


def test_an_unknown_function_after_a_call_is_text():
    assert read(LLAMA, CALL + '; {"name": "Ada", "parameters": {}}') == Reply(
        '; {"name": "Ada", "parameters": {}}', "", CALLED
    )


def test_text_after_a_call_is_text():
    assert read(LLAMA, f"{CALL}\n\nDone; really.") == Reply("\n\nDone; really.", "", CALLED)


def test_an_object_of_which_it_is_not_known_yet_is_held_back_until_it_is():
    found = outputs(LLAMA, "", pieces=['{"name": "get_time", ', '"parameters": {"ci', 'ty": "Oslo"}}'])
    assert [[(d.name, d.arguments) for d in piece.tool_calls] for piece in found] == [
        [],
        [("get_time", '{"ci')],
        [("", 'ty": "Oslo"}')],
        [],
    ]
    found = outputs(LLAMA, "", pieces=['{"title": ', '"x"}'])
    assert [piece.text for piece in found] == ['{"title":', ' "x"}', ""]


def test_after_reasoning_a_call_is_still_at_the_start():
    assert read(LLAMA, f"<think>Hm.</think>\n\n{CALL}") == Reply("", "Hm.", CALLED)
