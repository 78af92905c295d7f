"""What the load generator reads from recorded bytes, however they were cut."""

from __future__ import annotations

import asyncio
import json

import pytest

from benchmarks.event_stream_client import Recording

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(content=None, **more):
    choices = [] if content is None else [{"delta": {"content": content}}]
    return b"data: " + json.dumps({"choices": choices, **more}).encode() + b"\n\n"


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def parse(raw, size):
    loop = asyncio.new_event_loop()
    try:
        recording = Recording(b"", loop.create_future())
    finally:
        loop.close()
    recording.started = 0.0
    recording.reads = [(float(i + 1), raw[at : at + size]) for i, at in enumerate(range(0, len(raw), size))]
    return recording.parse()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
def test_pieces_are_counted_however_the_bytes_are_cut(size):
    body = chunk(event("")) + chunk(event("a") + event("b")) + chunk(event("c")) + chunk(b"data: [DONE]\n\n")
    answer = parse(HEAD + body + b"0\r\n\r\n", size)
    assert (answer.error, answer.text, answer.num_pieces, answer.num_tokens) == (None, "abc", 3, 3)
    assert len(answer.gaps_s) == 2


def test_usage_goes_before_the_number_of_pieces():
    usage = {"completion_tokens": 5, "prompt_tokens": 9}
    answer = parse(HEAD + chunk(event("ab")) + chunk(event(usage=usage)) + b"0\r\n\r\n", 10_000)
    assert (answer.num_pieces, answer.num_tokens, answer.num_prompt_tokens) == (1, 5, 9)


def test_times_are_those_of_the_last_byte_of_an_event():
    raw = HEAD + chunk(event("a")) + chunk(event("b")) + b"0\r\n\r\n"
    answer = parse(raw, 1)
    first = raw.index(b"\n\n", len(HEAD)) + 2
    assert answer.ttft_s == first
    assert answer.gaps_s == [raw.index(b"\n\n", first) + 2 - first]


def test_line_ends_of_either_kind_end_an_event():
    body = chunk(event("a").replace(b"\n", b"\r\n") + event("b").replace(b"\n", b"\r\n"))
    for size in (1, 2, 10_000):
        assert parse(HEAD + body + b"0\r\n\r\n", size).num_pieces == 2


def test_an_answer_that_breaks_off_is_an_error():
    assert parse(HEAD + chunk(event("a")), 10_000).error == "The connection ended before the answer did."


@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\nno such field"])
def test_no_answer_and_a_refusal_are_errors(raw):
    assert parse(raw, 10_000).error


def test_an_error_in_the_stream_is_an_error():
    assert "out of memory" in parse(HEAD + chunk(b'data: {"error": "out of memory"}\n\n') + b"0\r\n\r\n", 10_000).error
