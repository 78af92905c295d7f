"""What a consumer gets of an answer in its model's dialect."""

from __future__ import annotations

import pytest

from llmapi_kit.dialects import dialect_of
from llmapi_kit.engines.local.reply_reader import ReplyReader
from llmapi_kit.types import Accepted, Delta, Finished, TokenLogprob

TEMPLATE = "<tool_call> arguments <think>"
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("get_time", "get_weather")]
CALLS = (
    '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>\n'
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
)


def read(text, *, is_parallel=True, parses_calls=True, size=3, reason="stop", logprob=None):
    """All events for a text that comes in pieces; stops where the reader says that the answer is over."""
    parser = dialect_of(TEMPLATE).parser(tools=TOOLS, parses_calls=parses_calls, starts_in_reasoning=False)
    reader = ReplyReader([parser], is_parallel=is_parallel)
    pieces = [Delta(text[i : i + size], 1, logprob or ()) for i in range(0, len(text), size)]
    events = []
    for event in [*pieces, Finished(reason, 7, len(pieces) + 1)]:
        events += reader.read(event)
    return events


def calls_of(events):
    calls = {}
    for event in events:
        for call in getattr(event, "tool_calls", ()):
            name, arguments = calls.get(call.index, ("", ""))
            calls[call.index] = name + call.name, arguments + call.arguments
    return calls


def text_of(events):
    return "".join(e.text for e in events if isinstance(e, Delta))


def test_calls_come_out_as_calls_and_the_answer_ends_in_tool_calls():
    events = read("I look.\n" + CALLS)
    assert text_of(events) == "I look."
    assert calls_of(events) == {0: ("get_time", "{}"), 1: ("get_weather", '{"city": "Oslo"}')}
    assert events[-1].reason == "tool_calls"


def test_without_parallel_calls_the_answer_ends_where_a_second_one_begins():
    events = read(CALLS, is_parallel=False)
    assert calls_of(events) == {0: ("get_time", "{}")}
    ends = [e for e in events if isinstance(e, Finished)]
    assert [e.reason for e in ends] == ["tool_calls"]
    assert ends[0].num_completion_tokens < len(CALLS) // 3
    assert events[-1] is ends[0]  # nothing comes after it, though the model goes on


def test_a_call_cut_short_by_the_limit_ends_in_length():
    events = read(CALLS[:60], reason="length")
    assert calls_of(events)[0][0] == "get_time"
    assert events[-1].reason == "length"


def test_reasoning_is_kept_apart_and_logprobs_stay_with_their_tokens():
    logprob = (TokenLogprob(1, "x", b"x", -0.5),)
    events = read("<think>\nhm, so\n</think>\n\nYes.", logprob=logprob)
    assert "".join(e.reasoning for e in events if isinstance(e, Delta)) == "hm, so"
    assert text_of(events) == "Yes."
    assert sum(len(e.logprobs) for e in events if isinstance(e, Delta)) == sum(
        e.num_tokens for e in events if isinstance(e, Delta)
    )


def test_where_no_tools_were_offered_a_call_is_text():
    events = read(CALLS, parses_calls=False)
    assert (text_of(events), calls_of(events), events[-1].reason) == (CALLS, {}, "stop")


@pytest.mark.parametrize("event", [Accepted(3)])
def test_other_events_pass_through(event):
    assert list(ReplyReader([]).read(event)) == [event]
