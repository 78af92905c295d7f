"""What providers send that OpenAI does not: read as what it means, or a clear error, and nobody is locked out."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmapi_kit.engines.upstream.fields import IncompleteError, MalformedError
from llmapi_kit.errors import InvalidRequestError, QueueFullError, RequestError, UpstreamError
from llmapi_kit.types import Failed, Finished

from .conftest import check_events, run
from .faulty import GOOD, USAGE, answer, chunk, event, events, head
from .odd import END, call, calls, choice, message, read

pytestmark = pytest.mark.slow

TEXTS = {
    "an empty reason in each chunk": [chunk("one", finish=""), chunk(" two", finish=""), END],
    "the word null for no reason": [chunk("one", finish="null"), chunk(" two", finish="null"), END],
    "the role in each chunk": [chunk("one", role="assistant"), chunk(" two", role="assistant"), END],
    "fields that are null": [
        chunk("one", tool_calls=None, refusal=None, function_call=None, audio=None),
        chunk(" two", tool_calls=[], annotations=[]),
        END,
    ],
    "chunks without a choice": [{"choices": []}, chunk("one"), {"choices": None}, {"id": "x"}, chunk(" two"), END],
    "a choice that is null": [{"choices": [None]}, chunk("one two"), END],
    "a delta that is null": [chunk("one"), choice(delta=None), chunk(" two"), choice(delta=None, finish_reason="stop")],
    "no delta": [chunk("one two"), choice(finish_reason=None), choice(finish_reason="stop")],
    "content that is null": [chunk(content=None), chunk("one two"), chunk(content=None, finish="stop")],
    "no index": [{"choices": [{"delta": {"content": "one two"}}]}, END],
    "an index that is null": [{"choices": [{"index": None, "delta": {"content": "one two"}}]}, END],
    "an index that is a text": [{"choices": [{"index": "0", "delta": {"content": "one two"}}]}, END],
    "parts": [chunk(content=[{"type": "text", "text": "one"}, {"type": "text", "text": " two"}]), END],
    "parts that are texts": [chunk(content=["one", " two"]), END],
    "one part": [chunk(content={"type": "text", "text": "one two"}), END],
    "parts without text": [chunk(content=[{"type": "reference", "reference_ids": [1]}]), chunk("one two"), END],
    "message in place of delta": [
        choice(message={"content": "one"}),
        choice(message={"content": " two"}),
        choice(message={"content": ""}, finish_reason="stop"),
    ],
    "the whole message at the end": [chunk("one"), chunk(" two"), message(content="one two")],
    "the whole message after the end": [chunk("one"), chunk(" two"), END, message(content="one two")],
    "the message so far beside each delta": [
        choice(delta={"content": "one"}, message={"content": "one"}),
        choice(delta={"content": " two"}, message={"content": "one two"}),
        choice(delta={}, message={"content": "one two"}, finish_reason="stop"),
    ],
    "only the whole message": [choice(delta={"role": "assistant"}), message(content="one two")],
    "an empty delta beside the message": [
        choice(delta={"role": "assistant", "content": ""}, message={"content": "one two"}, finish_reason="stop")
    ],
    "the whole text again at the end": [chunk("o"), chunk("ne"), chunk(" two"), chunk("one two", finish="stop")],
    "the whole text again after the end": [chunk("o"), chunk("ne"), chunk(" two"), END, chunk("one two")],
    "a reason in each chunk": [chunk("one", finish="stop"), chunk(" two", finish="stop"), END],
    "logprobs that nobody asked for": [choice(delta={"content": "one two"}, logprobs=[0.5]), END],
    "empty logprobs": [choice(delta={"content": "one two"}, logprobs={"content": None}), END],
}


@pytest.mark.parametrize("what", TEXTS)
def test_a_text_is_read_as_what_it_means(what):
    text, reasoning, gathered, end = read(*TEXTS[what])
    assert (text, reasoning, gathered, end.reason) == ("one two", "", [], "stop")


def test_halves_of_a_character_come_together_and_others_are_marked():
    text, reasoning, gathered, _ = read(
        chunk("a\ud83d"), chunk("\ude00b"), chunk("\ud83d", reasoning="\ud83d"), calls(call("{}\ude00")), END
    )
    assert (text, reasoning, gathered) == ("a\N{GRINNING FACE}b", "\ufffd", [("call_0", "f", "{}\ufffd")])


def test_a_text_whose_last_piece_repeats_the_first_loses_nothing():
    assert read(chunk("ha"), chunk("ha", finish="stop"))[0] == "haha"
    assert read(chunk("1"), chunk("1"), chunk("11"), chunk("11", finish="stop"))[0] == "111111"


THOUGHTS = {
    "reasoning": chunk(reasoning="why"),
    "reasoning_content": chunk(reasoning_content="why"),
    "thinking": chunk(thinking="why"),
    "reasoning_details": chunk(reasoning_details=[{"type": "reasoning.text", "text": "why", "signature": None}]),
    "a summary": chunk(reasoning_details=[{"type": "reasoning.summary", "summary": "why"}]),
    "what is encrypted": chunk(reasoning="why", reasoning_details=[{"type": "reasoning.encrypted", "data": "x"}]),
    "the same under three names": chunk(
        reasoning="why", reasoning_content="why", reasoning_details=[{"type": "reasoning.text", "text": "why"}]
    ),
    "empty under another name": chunk(reasoning_content="", reasoning="why"),
    "an object": chunk(reasoning={"content": "why"}),
    "a part of the content": chunk(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "why"}]}]),
    "a part with a text": chunk(content=[{"type": "reasoning", "text": "why"}]),
}


@pytest.mark.parametrize("what", THOUGHTS)
def test_reasoning_is_found_under_each_of_its_names(what):
    text, reasoning, _, _ = read(THOUGHTS[what], chunk("so"), END)
    assert (text, reasoning) == ("so", "why")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("STOP", "stop"),
        ("eos", "stop"),
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        (" stop", "stop"),
        ("tool_calls", "stop"),  # there are none
        ("max_tokens", "length"),
        ("MAX_TOKENS", "length"),
        ("model_length", "length"),
        ("SAFETY", "content_filter"),
        ("sensitive", "content_filter"),
    ],
)
def test_reasons_have_many_names(said, reason):
    assert read(chunk("one"), chunk(finish=said))[3].reason == reason
    assert read(message(said, content="one"), is_whole=True)[3].reason == reason


@pytest.mark.parametrize("reason", [None, ""])
def test_a_whole_answer_without_a_reason_has_ended(reason):
    assert read(message(reason, content="one"), is_whole=True)[3].reason == "stop"
    assert read(message(reason, tool_calls=[call(id="c1")]), is_whole=True)[3].reason == "tool_calls"
    assert read(choice(text="one", finish_reason=reason), is_whole=True)[0] == "one"


USAGES = {
    "in each chunk": [
        {**chunk("one"), "usage": {"prompt_tokens": 7, "completion_tokens": 1}},
        {**END, "usage": {"prompt_tokens": 7, "completion_tokens": 3}},
    ],
    "null at the end": [{**chunk("one"), "usage": USAGE["usage"]}, {**END, "usage": None}],
    "nothing at the end": [{**chunk("one"), "usage": USAGE["usage"]}, {**END, "usage": {"prompt_tokens": None}}],
    "texts": [chunk("one"), END, {"usage": {"prompt_tokens": "7", "completion_tokens": "3"}}],
    "with a point": [chunk("one"), END, {"usage": {"prompt_tokens": 7.0, "completion_tokens": 3.0}}],
    "details that are null": [chunk("one"), END, {"usage": {**USAGE["usage"], "prompt_tokens_details": None}}],
    "other names": [chunk("one"), END, {"usage": {"input_tokens": 7, "output_tokens": 3}}],
    "in the choice": [chunk("one"), choice(delta={}, finish_reason="stop", usage=USAGE["usage"])],
    "in x_groq": [chunk("one"), {**END, "x_groq": {"id": "x", "usage": USAGE["usage"]}}],
    "in two parts": [{**chunk("one"), "usage": {"prompt_tokens": 7}}, {**END, "usage": {"completion_tokens": 3}}],
}


@pytest.mark.parametrize("what", USAGES)
def test_usage_is_found_however_it_is_told(what):
    assert read(*USAGES[what])[3] == Finished("stop", 7, 3)


@pytest.mark.parametrize("value", [None, "many", -1, 0.5, True, [], {}, 1e300, float("nan"), float("inf"), 10**30])
def test_usage_that_can_not_be_gives_way_to_the_pieces(value):
    usage = {"prompt_tokens": value, "completion_tokens": value, "prompt_tokens_details": value}
    assert read(chunk("one"), chunk("two"), {**END, "usage": usage})[3] == Finished("stop", 0, 2)


ODD = {
    "content that is a number": chunk(content=5),
    "a part that is a number": chunk(content=[5]),
    "a delta that is a text": choice(delta="one"),
    "choices that are an object": {"choices": {"0": {}}},
    "a choice that is a text": {"choices": ["one"]},
    "an index that is no number": {"choices": [{"index": "first", "delta": {"content": "x"}}]},
    "a reason that is a number": chunk(finish=5),
    "a reason that nobody knows": chunk(finish="exploded"),
    "calls that are a text": chunk(tool_calls="f()"),
    "a call that is a text": calls("f()"),
    "arguments that are a number": calls(call(5, id="c1", index=0)),
    "a function that is a text": calls({"index": 0, "id": "c1", "function": "f"}),
    "a call's index that is a list": calls(call(index=[0])),
    "a name that is an object": calls(call(name={"a": 1})),
}


@pytest.mark.parametrize("what", ODD)
def test_what_means_nothing_is_an_error(what):
    with pytest.raises(MalformedError):
        read(ODD[what], END)


@pytest.mark.parametrize("is_first", [True, False], ids=["at once", "later"])
def test_odd_answers_are_clear_errors_and_lock_nobody_out(upstream, is_first):
    odd = events(*([] if is_first else [chunk("one")]), chunk(finish="exploded"))
    server, engine = upstream(*[odd] * 8, events(*GOOD), upstream_retries=2)
    for _ in range(8):
        error = _error_of(engine)
        assert type(error) is UpstreamError
        assert "can't be read: it ended for the reason 'exploded'" in error.message
    assert run(engine)[0] == "one two"
    assert len(server.asked) == 9  # what can't be read once would be no better if asked for again


def _error_of(engine):
    """What a request that fails fails with, before the answer or within it."""
    try:
        _, seen = run(engine)
    except RequestError as exc:
        return exc
    assert isinstance(seen[-1], Failed)
    return seen[-1].error


def raw(data, kind="text/event-stream", step=None):
    """Sends these bytes, in parts of `step`."""

    async def behave(asked, writer):
        writer.write(head(kind=kind, Connection="close"))
        for at in range(0, len(data), step or len(data)):
            writer.write(data[at : at + (step or len(data))])
            await writer.drain()
        return "close"

    return behave


STREAM = b"".join(map(event, GOOD[1:]))
WHOLE = {**message(content="one two"), "usage": USAGE["usage"]}
FRAMES = {
    "no space after the colon": raw(STREAM.replace(b"data: ", b"data:")),
    "CR": raw(STREAM.replace(b"\n", b"\r") + b"\n"),
    "names and ids of events": raw(STREAM.replace(b"data: ", b"event: message\nid: 1\nretry: 5\ndata: ")),
    "a byte order mark": raw(b"\xef\xbb\xbf" + STREAM),
    "a byte order mark, byte by byte": raw(b"\xef\xbb\xbf" + STREAM, step=1),
    "empty and null events": raw(b"data:\n\ndata: null\n\n" + STREAM.replace(b"\n\n", b"\n\ndata: \n\n")),
    "space around the end": raw(STREAM.replace(b"[DONE]", b" [DONE] ")),
    "no empty line at the end": raw(b"".join(map(event, [*GOOD[:3], {**END, "usage": USAGE["usage"]}]))[:-2]),
    "the wrong media type": raw(STREAM, "text/plain"),
    "JSON's media type": raw(STREAM, "application/json"),
    "a whole answer": answer(WHOLE),
    "a whole answer in a stream's clothes": raw(json.dumps(WHOLE).encode()),
    "a whole answer, indented": raw(b"\xef\xbb\xbf \n" + json.dumps(WHOLE, indent=2).encode(), "application/json"),
    "a whole answer without a reason": answer({**message(None, content="one two"), "usage": USAGE["usage"]}),
    "a whole answer as an event": raw(event(WHOLE)),
    "a reason in each chunk": events(chunk("one", finish="stop"), chunk(" two", finish="stop"), USAGE, "[DONE]"),
    "a reason and usage in each chunk": events(
        *({**chunk(text, finish="stop"), "usage": USAGE["usage"]} for text in ("one", " two")), "[DONE]"
    ),
}


@pytest.mark.parametrize("what", FRAMES)
def test_a_stream_is_read_however_it_is_framed(upstream, what):
    _, engine = upstream(FRAMES[what])
    text, seen = run(engine)
    check_events(seen)
    assert (text, seen[-1]) == ("one two", Finished("stop", 7, 3))


def test_after_a_reason_that_was_wrong_there_is_time_again(upstream, monkeypatch):
    monkeypatch.setattr("llmapi_kit.engines.upstream.response.USAGE_S", 0.1)

    async def pausing(asked, writer):
        writer.write(head(Connection="close") + event(chunk("one", finish="stop")) + event(chunk(" ", finish="stop")))
        await writer.drain()
        await asyncio.sleep(0.3)
        writer.write(event(chunk("two", finish="stop")))
        return "close"

    _, engine = upstream(pausing)
    assert run(engine)[0] == "one two"


def in_choice(error):
    return {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error", "error": error}]}


ERRORS = {
    "a text": ({"error": "it broke"}, UpstreamError),
    "an object": ({"error": {"message": "it broke"}}, UpstreamError),
    "beside choices": ({"error": {"message": "it broke"}, **chunk("one")}, UpstreamError),
    "in a choice": (in_choice({"message": "it broke", "code": 502}), UpstreamError),
    "by its type": ({"object": "error", "message": "it broke", "code": 500}, UpstreamError),
    "in a list": ({"error": [{"message": "it broke"}]}, UpstreamError),
    "a limited rate": ({"error": {"message": "slow down", "code": 429}}, QueueFullError),
    "a limited rate, by name": ({"error": {"message": "slow down", "type": "rate_limit_error"}}, QueueFullError),
    "a limited rate, in a choice": (in_choice({"message": "slow down", "code": "429"}), QueueFullError),
    "the request's fault": ({"error": {"message": "top_p is 3", "code": 400}}, InvalidRequestError),
}


@pytest.mark.parametrize("how", ["chunk", "later chunk", "body"])
@pytest.mark.parametrize("what", ERRORS)
def test_an_error_in_place_of_an_answer_is_an_error(upstream, what, how):
    body, kind = ERRORS[what]
    _, engine = upstream({"chunk": events(body), "later chunk": events(chunk("one"), body), "body": answer(body)}[how])
    assert type(_error_of(engine)) is kind


def test_an_error_that_is_null_is_none(upstream):
    _, engine = upstream(events(*({**each, "error": None} for each in GOOD[:-1]), "[DONE]"))
    assert run(engine)[0] == "one two"


FIELDS = (
    *("index", "delta", "message", "content", "text", "type", "tool_calls", "function", "name", "id", "arguments"),
    *("finish_reason", "logprobs", "tokens", "token", "usage", "choices", "reasoning"),
)
ANYTHING = st.recursive(
    st.sampled_from([None, True, 0, 1, -1, 2.5, "", "x", "{}", "stop", "\ud800", float("nan")]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "index",
                    "delta",
                    "message",
                    "content",
                    "text",
                    "type",
                    "tool_calls",
                    "function",
                    "name",
                    "id",
                    "arguments",
                    "finish_reason",
                    "logprobs",
                    "tokens",
                    "token",
                    "usage",
                    "choices",
                    "reasoning",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(ANYTHING | ANYTHING.map(lambda value: {"choices": [value]}) | ANYTHING.map(lambda v: choice(delta=v))))
def test_whatever_comes_is_read_or_malformed(chunks):
    with contextlib.suppress(MalformedError, IncompleteError):
        text, reasoning, gathered, _ = read(*chunks, wants_logprobs=True)
        json.dumps([text, reasoning, gathered], ensure_ascii=False).encode()
