"""Whatever an upstream does, a request ends in exactly one way, within its limits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback

import pytest

from llmapi_kit.errors import (
    BodyTooLargeError,
    ContextLengthError,
    EngineUnavailableError,
    InvalidRequestError,
    QueueFullError,
    RequestError,
    RequestTimeoutError,
    UpstreamError,
)
from llmapi_kit.types import Accepted, Delta, Failed, Finished
from tests.engines.conftest import wait_until

from .conftest import SHORT_S, ask, check_events, collect, run
from .faulty import (
    CANARY,
    GOOD,
    HANGING,
    USAGE,
    answer,
    chunk,
    cut_off,
    drip,
    error,
    event,
    events,
    gzipped,
    hang,
    hang_after_headers,
    hang_in_an_error,
    hang_in_headers,
    hang_in_the_middle,
    head,
    huge_line,
    keep_alive,
    reset,
)

HTML = answer(b"<html><body>502 Bad Gateway nginx</body></html>", 502, "text/html")

# Refused before anything was accepted, with these.
REFUSED = {
    "says nothing": (hang, RequestTimeoutError, "upstream", "timeout"),
    "half of the headers": (hang_in_headers, RequestTimeoutError, 504, "timeout"),
    "an error that never ends": (hang_in_an_error, RequestTimeoutError, 504, "timeout"),
    "closes at once": (reset, UpstreamError, 502, "upstream_failed"),
    "500": (error(500), UpstreamError, 502, "upstream_failed"),
    "502 with HTML": (HTML, UpstreamError, 502, "upstream_failed"),
    "401": (error(401, f"Incorrect API key {CANARY}"), UpstreamError, 502, "upstream_key_refused"),
    "403": (error(403), UpstreamError, 502, "upstream_key_refused"),
    "402": (error(402), UpstreamError, 502, "upstream_key_refused"),
    "404": (error(404), UpstreamError, 502, "upstream_not_found"),
    "429": (error(429), QueueFullError, 429, "upstream_rate_limited"),
    "429 for want of money": (error(429, code="insufficient_quota"), UpstreamError, 502, "upstream_key_refused"),
    "413": (error(413), BodyTooLargeError, 413, "request_too_large"),
    "400": (error(400, "temperature is wrong", param="temperature"), InvalidRequestError, 400, None),
    "422": (answer({"detail": "no"}, 422), InvalidRequestError, 400, None),
    "a context that is too short": (
        error(400, "This model's maximum context length is 8 tokens"),
        ContextLengthError,
        400,
        "context_length_exceeded",
    ),
    "a redirection": (answer(b"", 302, Location="http://localhost:1/v1"), UpstreamError, 502, "upstream_failed"),
    "garbage": (events("{not json"), UpstreamError, 502, "upstream_failed"),
    "a list": (events([1, 2]), UpstreamError, 502, "upstream_failed"),
    "an error for a chunk": (events({"error": {"message": "no"}}), UpstreamError, 502, "upstream_failed"),
    "an error of ours for a chunk": (
        events({"error": {"message": "no", "type": "invalid_request_error", "param": "stop"}}),
        InvalidRequestError,
        400,
        None,
    ),
    "nothing at all": (events(), UpstreamError, 502, "upstream_failed"),
    "only the end": (events("[DONE]"), UpstreamError, 502, "upstream_failed"),
    "a page": (answer(b"<html>hello</html>", 200, "text/html"), UpstreamError, 502, "upstream_failed"),
    "a line without end": (huge_line, UpstreamError, 502, "upstream_failed"),
    "content that is no text": (events(chunk(content=[1])), UpstreamError, 502, "upstream_failed"),
    "an answer too many": (events(chunk("x", index=3)), UpstreamError, 502, "upstream_failed"),
}
# Accepted, and ended by one `Failed` with these.
BROKEN = {
    "hangs after the headers": (hang_after_headers, RequestTimeoutError),
    "hangs in the middle": (hang_in_the_middle, RequestTimeoutError),
    "drips": (drip, RequestTimeoutError),
    "keeps a dead model's stream alive": (keep_alive, RequestTimeoutError),
    "half a stream": (events(chunk("one"), chunk(" two")), UpstreamError),
    "half a stream, and the end": (events(chunk("one"), "[DONE]"), UpstreamError),
    "cut off": (cut_off, UpstreamError),
    "half a chunk": (events(chunk("one"), b'data: {"choices": [{"ind'), UpstreamError),
    "garbage in the middle": (events(chunk("one"), "{"), UpstreamError),
    "an error in the middle": (events(chunk("one"), {"error": {"message": f"key {CANARY}"}}), UpstreamError),
    "an unknown end": (events(chunk("one"), chunk(finish="exploded")), UpstreamError),
    "a call without a name": (events(chunk("a"), chunk(tool_calls=[{"index": 0, "function": {}}])), UpstreamError),
    "a call whose name never comes": (
        events(chunk("a"), chunk(tool_calls=[{"index": 0, "id": "a"}]), chunk(finish="stop")),
        UpstreamError,
    ),
    "more of a call that never began": (
        events(chunk("a"), chunk(tool_calls=[{"index": 4, "function": {"arguments": "{"}}]), chunk(finish="stop")),
        UpstreamError,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", REFUSED)
def test_what_fails_before_the_answer_is_refused(upstream, what):
    behaviour, kind, status, code = REFUSED[what]
    limits = {"upstream_answer_s": SHORT_S} if behaviour in HANGING else {}
    _server, engine = upstream(behaviour, **limits)
    with pytest.raises(RequestError) as caught:
        run(engine)
    assert type(caught.value) is kind
    assert caught.value.status == (504 if status == "upstream" else status)
    assert caught.value.code == code
    check_nothing_leaks(caught.value)
    assert (engine.stats().num_running, engine.stats().num_failed) == (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("what", BROKEN)
def test_what_fails_later_ends_the_answer(upstream, what, monkeypatch):
    monkeypatch.setattr("llmapi_kit.engines.upstream.response.BELIEVED_AFTER_S", 0.1)
    behaviour, kind = BROKEN[what]
    limits = {"first_token_timeout_s": 2} if behaviour is hang_after_headers else {}
    _, engine = upstream(behaviour, upstream_silence_s=SHORT_S, **limits)
    _, seen = run(engine)
    check_events(seen)
    assert isinstance(seen[-1], Failed)
    assert type(seen[-1].error) is kind
    check_nothing_leaks(seen[-1].error)
    assert (engine.stats().num_running, engine.stats().num_failed) == (0, 1)


def check_nothing_leaks(error):
    shown = "".join(traceback.format_exception(error)) + repr(error) + str(vars(error))
    assert CANARY not in shown
    assert "127.0.0.1" not in shown


def test_the_message_of_a_wrong_request_is_passed_on_with_its_field(upstream):
    _, engine = upstream(error(400, f"top_p is 3. You sent {CANARY} and Bearer abc.def", param="top_p", code="bad"))
    with pytest.raises(InvalidRequestError) as caught:
        run(engine)
    assert (caught.value.param, caught.value.code) == ("top_p", "bad")
    assert "top_p is 3" in caught.value.message
    assert CANARY not in caught.value.message
    assert "abc.def" not in caught.value.message


def test_a_key_is_taken_out_of_what_is_passed_on_also_where_it_looks_like_none(upstream):
    key = "Zq7Xw9Lm2Kp4"
    _, engine = upstream(error(400, f"top_p is 3. You sent {key}."), api_key=key)
    with pytest.raises(InvalidRequestError, match=r"top_p is 3. You sent \[key\]") as caught:
        run(engine)
    assert key not in caught.value.message


def test_a_refused_key_is_an_administrators_trouble_and_says_which(upstream):
    _, engine = upstream(error(401), name="vllm:{url}#m")
    with pytest.raises(UpstreamError, match=r"vllm .*Whoever runs this server .*VLLM_API_KEY"):
        run(engine)


@pytest.mark.parametrize("value", ["7", "Wed, 21 Oct 2099 07:28:00 GMT", "soon"])
def test_a_limited_rate_says_when_to_come_back(upstream, value):
    _, engine = upstream(error(429, headers={"Retry-After": value}))
    with pytest.raises(QueueFullError) as caught:
        run(engine)
    expected = {"7": 7, "soon": 10}.get(value)
    assert caught.value.retry_after_s >= 1
    assert expected is None or caught.value.retry_after_s == pytest.approx(expected, abs=1)


def test_a_redirection_does_not_take_the_key_to_another_host(upstream):
    other, _ = upstream(events(*GOOD))
    _, engine = upstream(answer(b"", 307, Location=f"http://localhost:{other.port}/v1/chat/completions"))
    with pytest.raises(UpstreamError, match="redirection"):
        run(engine)
    assert not other.asked


def test_no_one_there_is_an_error_of_the_upstream(upstream):
    server, engine = upstream(hang)
    server.__exit__()
    with pytest.raises(UpstreamError, match="can't be reached"):
        run(engine)
    server.__enter__()


@pytest.mark.parametrize(
    "behaviour",
    [
        events(*GOOD),
        gzipped,
        events(*GOOD[:-1]),  # no [DONE]
        events(*GOOD[:4], chunk(finish="length"), *GOOD[4:]),  # a second end
        events(b": comment\r\n\r\n", *(event(body).replace(b"\n", b"\r\n") for body in GOOD)),
        events(b"".join(map(event, GOOD))),
    ],
    ids=["plain", "gzip", "without DONE", "two ends", "CRLF and comments", "in one piece"],
)
def test_a_good_answer_is_a_good_answer(upstream, behaviour):
    _, engine = upstream(behaviour)
    text, seen = run(engine)
    check_events(seen)
    assert text == "one two"
    assert seen[-1] == Finished("stop", 7, 3)


def test_bytes_may_come_one_by_one(upstream):
    async def slowly(asked, writer):
        writer.write(head(Connection="close"))
        for byte in b"".join(map(event, GOOD)):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        return "close"

    _, engine = upstream(slowly)
    assert run(engine)[0] == "one two"


def test_without_usage_the_pieces_are_counted(upstream):
    _, engine = upstream(events(*GOOD[:4], "[DONE]"))
    assert run(engine)[1][-1] == Finished("stop", 0, 2)


def test_a_stream_that_hangs_after_its_answers_ends_well(upstream, monkeypatch):
    monkeypatch.setattr("llmapi_kit.engines.upstream.response.USAGE_S", 0.1)
    _, engine = upstream(events(*GOOD[:4], then=hang))
    assert run(engine)[1][-1] == Finished("stop", 0, 2)


def test_usage_that_is_none_does_not_spoil_an_answer(upstream):
    _, engine = upstream(events(*GOOD[:4], {"choices": [], "usage": {"prompt_tokens": "many"}}))
    assert run(engine)[1][-1] == Finished("stop", 0, 2)


def test_tokens_that_no_piece_stood_for_are_counted(upstream):
    _, engine = upstream(events(chunk("one two three"), chunk(finish="stop"), USAGE))
    seen = run(engine)[1]
    assert sum(each.num_tokens for each in seen if isinstance(each, Delta)) == 3


def test_reasoning_tool_calls_and_logprobs_come_through(upstream):
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "look_up", "arguments": ""}}
    more = {"index": 0, "function": {"arguments": '{"a": 1}'}}
    entry = {"token": "Hm", "logprob": -0.5, "bytes": [72, 109], "top_logprobs": [{"token": "Ah", "logprob": -1}]}
    scored = {"choices": [{"index": 0, "delta": {"content": "Hm"}, "logprobs": {"content": [entry]}}]}
    _, engine = upstream(
        events(
            chunk(reasoning="why"),
            chunk(reasoning_content=" not"),
            scored,
            chunk(tool_calls=[call]),
            chunk(tool_calls=[more]),
            chunk(finish="stop"),
        )
    )
    _, seen = run(engine, ask(logprobs=1))
    assert "".join(each.reasoning for each in seen if isinstance(each, Delta)) == "why not"
    calls = [call for each in seen if isinstance(each, Delta) for call in each.tool_calls]
    assert [(c.index, c.id, c.name, c.arguments) for c in calls] == [(0, "c1", "look_up", ""), (0, "", "", '{"a": 1}')]
    (token,) = [token for each in seen if isinstance(each, Delta) for token in each.logprobs]
    assert (token.text, token.raw, token.logprob, token.top[0].text) == ("Hm", b"Hm", -0.5, "Ah")
    assert seen[-1].reason == "tool_calls"


def test_logprobs_that_were_asked_for_and_do_not_come_are_an_error(upstream):
    _, engine = upstream(events(*GOOD))
    _, seen = run(engine, ask(logprobs=0))
    assert isinstance(seen[-1], Failed)


def test_several_answers_share_the_tokens(upstream):
    both = [chunk("a", index=0), chunk("b", index=1), chunk(" c", index=1), chunk(finish="stop", index=1)]
    usage = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 4}}
    _, engine = upstream(events(*both, chunk(finish="length", index=0), usage))
    _, seen = run(engine, ask(n=2))
    assert [(e.reason, e.index, e.num_completion_tokens) for e in seen if isinstance(e, Finished)] == [
        ("length", 0, 2),
        ("stop", 1, 2),
    ]


@pytest.mark.parametrize("behaviour", [hang, hang_after_headers, hang_in_the_middle, hang_in_an_error])
@pytest.mark.parametrize("how", ["cancel", "close"])
def test_who_leaves_takes_the_connection_along_at_once(upstream, behaviour, how):
    server, engine = upstream(behaviour)

    async def main():
        stream = engine.generate(ask())
        task = asyncio.ensure_future(collect(stream))
        await asyncio.to_thread(server.waiting.wait, 10)
        if behaviour is hang_in_the_middle:
            await wait_until(lambda: engine.stats().num_completion_tokens > 0)
        if how == "cancel":
            task.cancel()
        else:
            engine.close()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        error = ended[1][-1].error if isinstance(ended, tuple) else ended
        assert isinstance(error, asyncio.CancelledError if how == "cancel" else EngineUnavailableError)
        assert await asyncio.to_thread(server.left.wait, 5)

    asyncio.run(main())
    assert engine.stats().num_running == 0


def test_closing_the_generator_closes_the_connection(upstream):
    server, engine = upstream(hang_in_the_middle)

    async def main():
        stream = engine.generate(ask())
        assert isinstance(await anext(stream), Accepted)
        assert isinstance(await anext(stream), Delta)
        await stream.aclose()
        assert await asyncio.to_thread(server.left.wait, 5)

    asyncio.run(main())
    assert (engine.stats().num_running, engine.stats().num_cancelled) == (0, 1)


def test_the_key_is_in_no_log_however_loud(upstream, caplog):
    caplog.set_level(logging.DEBUG)
    for behaviour in (events(*GOOD), error(401), error(500, CANARY), events("{"), hang_in_the_middle):
        _, engine = upstream(behaviour, upstream_silence_s=SHORT_S)
        with contextlib.suppress(RequestError):
            run(engine)
    said = "\n".join(f"{record.getMessage()} {record.args} {record.exc_text}" for record in caplog.records)
    assert "HTTP 401: no" in said  # whoever looks after the key is told
    assert CANARY not in said
    assert CANARY not in repr(engine) + repr(vars(engine)) + repr(engine.info)
