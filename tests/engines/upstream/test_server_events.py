"""Server-sent events are taken apart alike, however they are cut up on the way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmapi_kit.engines.upstream.sse_parser import EventTooLargeError, SSEParser

pytestmark = pytest.mark.kernel

LINES = st.sampled_from(
    [b"data: a", b"data:b", b"data:", b"data:  c", b": comment", b"event: x", b"id: 1", b"data", b""]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


def reference(raw):
    """The data of each event, the slow way."""
    events, data = [], []
    for line in raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[:-1]:
        if not line:
            events += [b"\n".join(data)] if data else []
            data = []
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
    return events


@given(st.lists(st.tuples(LINES, ENDS), max_size=30), st.lists(st.integers(0, 300), max_size=20))
def test_every_way_of_cutting_gives_the_same_events(lines, cuts):
    raw = b"".join(line + end for line, end in lines) + b"\n\n"
    reader = SSEParser()
    at, events = 0, []
    for cut in [*sorted(cut for cut in cuts if cut < len(raw)), len(raw)]:
        events += reader.feed(raw[at:cut])
        at = cut
    assert events == reference(raw)


@pytest.mark.parametrize("raw", [b"data: " + b"x" * 200, b"data: x\n" * 60, b"x" * 200])
def test_an_event_that_grows_too_large_is_refused_before_it_ends(raw):
    reader = SSEParser(max_event_bytes=100)

    def feed_all():
        for at in range(0, len(raw), 10):
            reader.feed(raw[at : at + 10])

    with pytest.raises(EventTooLargeError):
        feed_all()


def test_many_small_events_are_no_large_one():
    reader = SSEParser(max_event_bytes=100)
    assert len(reader.feed(b"data: x\n\n" * 1000)) == 1000
