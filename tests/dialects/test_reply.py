# ruff: noqa: RUF001  (the markers are spelled so)
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmapi_kit.dialects.deepseek import DeepSeekCalls
from llmapi_kit.dialects.dialect import PLAIN, Dialect
from llmapi_kit.dialects.hermes import HermesCalls
from llmapi_kit.dialects.llama import LlamaCalls
from llmapi_kit.dialects.mistral import MistralCalls
from tests.dialects.replies import THINK, TOOLS, Reply, joined, outputs, pieces_of, read

pytestmark = pytest.mark.kernel

HERMES = HermesCalls()
CALL = '<tool_call>\n{"name": "get_time", "arguments": {"city": "Oslo"}}\n</tool_call>'
CALLED = (("get_time", '{"city": "Oslo"}'),)
FORMS = [HERMES, HermesCalls(is_xml=True), LlamaCalls(), MistralCalls(), DeepSeekCalls()]

# Pieces of every format, whole and broken, and ordinary text that looks like them
WORDS = """
    < </ <tool <think> </think> <tool_call> </tool_call> 京都 😀 { } [ ] : , ; " null 12 tru [ARGS] ``` function x \\
    <function=get_weather> <parameter=city> <parameter=days> 3 </parameter> </function> get_time
    <｜tool▁calls▁begin｜> <｜tool▁call▁begin｜> <｜tool▁sep｜> <｜tool▁call▁end｜> <｜tool▁calls▁end｜>
    [TOOL_CALLS] [CALL_ID] <|python_tag|> ```json
"""
PHRASES = (
    *("\n", " ", "\n\n", '{"name": "get_time"', ', "parameters": '),
    *('{"name": "get_time", "arguments": {"city": "Os}lo\\""}}', '{"arguments": {"a": [1, {"b": 2}]}, "name": "f"}'),
)
SCRAPS = st.sampled_from([*WORDS.split(), *PHRASES])


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, ids=str)
@given(scraps=st.lists(SCRAPS, max_size=14), inside=st.booleans(), data=st.data())
def test_any_split_gives_what_the_whole_text_gives(form, scraps, inside, data):
    text = "".join(scraps)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8))
    whole = joined(outputs(form, text, inside=inside))
    assert joined(outputs(form, text, inside=inside, pieces=pieces_of(text, cuts))) == whole
    assert joined(outputs(form, text, inside=inside, pieces=list(text))) == whole


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, ids=str)
@given(scraps=st.lists(SCRAPS, max_size=14))
def test_where_no_call_begins_nothing_is_lost(form, scraps):
    text = "".join(scraps)
    reply = joined(outputs(form, text, reasoning=None))
    assert reply.calls or reply.text == text


def test_ordinary_text_is_not_held_back():
    assert [piece.text for piece in outputs(HERMES, "", pieces=["Is a < b? ", "Yes"])] == ["Is a < b?", " Yes", ""]


def test_only_what_may_start_a_marker_is_held_back():
    assert [piece.text for piece in outputs(HERMES, "", pieces=["see <too", "ls>"])] == ["see", " <tools>", ""]


def test_half_a_marker_at_the_end_is_text():
    assert read(HERMES, "see <tool_ca") == Reply("see <tool_ca")


def test_a_marker_that_opens_no_call_is_text():
    assert read(HERMES, "Write <tool_call> first, </tool_call> last.") == Reply(
        "Write <tool_call> first, </tool_call> last."
    )


def test_reasoning_comes_without_the_whitespace_around_it():
    assert read(HERMES, "<think>\nHm.\n\nRight.\n</think>\n\nYes.\n") == Reply("Yes.\n", "Hm.\n\nRight.")


def test_reasoning_that_the_prompt_opened_needs_no_marker():
    assert read(HERMES, "Hm.\n</think>\n\nYes.", inside=True) == Reply("Yes.", "Hm.")


def test_a_model_may_repeat_the_marker_that_the_prompt_wrote():
    assert read(HERMES, "<think>\nHm.</think>Yes.", inside=True) == Reply("Yes.", "Hm.")


def test_reasoning_that_never_ends_stays_reasoning():
    assert read(HERMES, "Hm. </thi", inside=True) == Reply("", "Hm. </thi")


def test_reasoning_streams_as_it_comes():
    found = outputs(HERMES, "", pieces=["<think>", "one", " two", "</think>", "three"])
    assert [(piece.reasoning, piece.text) for piece in found[1:-1]] == [
        ("one", ""),
        (" two", ""),
        ("", ""),
        ("", "three"),
    ]


def test_a_later_think_marker_is_text():
    assert read(HERMES, "The tag <think> opens it, </think> closes it.") == Reply(
        "The tag <think> opens it, </think> closes it."
    )


def test_without_reasoning_its_markers_are_text():
    assert read(HERMES, "<think>a</think>", reasoning=None) == Reply("<think>a</think>")


def test_a_call_inside_of_reasoning_is_reasoning():
    assert read(HERMES, f"<think>{CALL}</think>{CALL}") == Reply("", CALL, CALLED)


def test_whitespace_around_calls_is_no_text():
    assert read(HERMES, f"Let me look.\n{CALL}\n{CALL}\n") == Reply("Let me look.", "", CALLED * 2)


def test_whitespace_before_text_stays():
    assert read(HERMES, f"One.\n{CALL}\n\nTwo.\n") == Reply("One.\n\nTwo.\n", "", CALLED)


def test_calls_that_nobody_asked_for_are_text():
    assert read(HERMES, f"So: {CALL}", parses_calls=False) == Reply(f"So: {CALL}")


def test_a_plain_dialect_passes_everything_on_at_once():
    parser = PLAIN.parser(parses_calls=True, starts_in_reasoning=False)
    assert parser.feed(" <think>  ").text == " <think>  "
    assert parser.flush().text == ""
    assert PLAIN.markers == ()


def test_calls_have_ids_of_their_own():
    ids = [delta.id for piece in outputs(HERMES, CALL * 50) for delta in piece.tool_calls]
    assert len(set(ids)) == 50


def test_a_piece_has_one_delta_for_each_call():
    (first, flushed) = outputs(HERMES, CALL + CALL)
    assert [(delta.index, delta.name, delta.arguments) for delta in first.tool_calls] == [
        (0, *CALLED[0]),
        (1, *CALLED[0]),
    ]
    assert flushed.tool_calls == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "abc < def\n" * 2000,
        "<" * 20000,
        " " * 20000,
        "<think>" + "hm </thin " * 2000,
        CALL * 250,
        "<tool_call> " * 1700,
        '<tool_call>{"name": "f", "arguments": {"a": "' + 'x<\\n"' * 4000,
        '<tool_call>{"arguments": {"a": "' + "x<\\n" * 5000 + '"}, "name": "f"}',
        '<tool_call>{"name": "f", "arguments": ' + "[" * 20000,
        '<tool_call>{"' + "k" * 20000,
        "<tool_call><function=get_weather><parameter=city>" + "line\n" * 4000,
    ],
    ids=range(11),
)
def test_what_is_left_unread_stays_short_however_long_the_reply(text):
    # each feed copies what is left unread, so this bounds the work a character
    parser = Dialect("tested", HERMES, THINK).parser(tools=TOOLS, parses_calls=True, starts_in_reasoning=False)
    longest = 0
    for char in text:
        parser.feed(char)
        longest = max(longest, len(parser._stream._text))
    assert longest < 300
