"""A client that reads event streams as cheaply as Python can, so that it is not what is measured.

While a request runs, it only notes when bytes arrived and keeps them; what they say is worked out afterwards by
`Recording.parse`. Standard library only. A fresh connection for each request, as from clients that do not know each
other.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

LAST_CHUNK = b"0\r\n\r\n"
RECEIVE_TIMEOUT_S = 600.0


@dataclass(slots=True)
class Answer:
    """What a request got.

    Attributes:
        error: why it failed; None when it did not.
        ttft_s: from before connecting to the first piece of text; None when there was none.
        gaps_s: between pieces of text.
        num_pieces: events that carried text.
        num_tokens: from the usage where the server says it, else one for each piece of text.
        num_prompt_tokens: from the usage; None where the server does not say.
        text: all of it.
    """

    error: str | None = None
    ttft_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    num_pieces: int = 0
    num_tokens: int = 0
    num_prompt_tokens: int | None = None
    text: str = ""


class Recording(asyncio.Protocol):
    """One request on one connection, recorded.

    Args:
        request: bytes to send once connected.
        done: is resolved when the answer is complete or the connection ends.
    """

    def __init__(self, request: bytes, done: asyncio.Future[None]) -> None:
        self.started = time.perf_counter()
        self.reads: list[tuple[float, bytes]] = []
        self._request = request
        self._done = done
        self._tail = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Note what came and when."""
        self.reads.append((time.perf_counter(), data))
        self._tail = data if len(data) >= 7 else (self._tail + data)[-7:]
        if self._tail.endswith(LAST_CHUNK) and self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, also when the server went away."""
        if not self._done.done():
            self._done.set_result(None)

    def parse(self) -> Answer:
        """Work out what was received."""
        raw = b"".join(data for _, data in self.reads)
        head, split, _ = raw.partition(b"\r\n\r\n")
        status = head.split(b" ", 2)[1:2]
        if not split or status != [b"200"]:
            return Answer(error=f"HTTP: {raw[:600].decode(errors='replace') or 'no answer'}")
        times: list[float] = []
        answer = Answer()
        body = _Dechunker() if b"transfer-encoding: chunked" in head.lower() else _Plain()
        pending, skip = b"", len(head) + 4
        for at, data in self.reads:
            passed, skip = data[skip:], max(0, skip - len(data))
            pending = (pending + body.feed(passed)).replace(b"\r\n", b"\n")
            *events, pending = pending.split(b"\n\n")
            for event in events:
                _take(event, at, answer, times)
        answer.num_pieces = len(times)
        if not answer.num_tokens:
            answer.num_tokens = len(times)
        if times:
            answer.ttft_s = times[0] - self.started
            answer.gaps_s = [later - earlier for earlier, later in itertools.pairwise(times)]
        if not body.is_complete and answer.error is None:
            answer.error = "The connection ended before the answer did."
        return answer


def _take(event: bytes, at: float, answer: Answer, times: list[float]) -> None:
    """Read one server-sent event into the answer."""
    if not event.startswith(b"data:") or (payload := event[5:].strip()) == b"[DONE]":
        return
    content: dict[str, Any] = json.loads(payload)
    if "error" in content:
        answer.error = json.dumps(content["error"])[:600]
        return
    for choice in content.get("choices") or ():
        text = (choice.get("delta") or {}).get("content") or choice.get("text")
        if text:
            times.append(at)
            answer.text += text
    usage = content.get("usage")
    if usage:
        answer.num_tokens = usage["completion_tokens"]
        answer.num_prompt_tokens = usage["prompt_tokens"]


class _Plain:
    """A body that ends with its connection."""

    is_complete = True

    def feed(self, data: bytes) -> bytes:
        return data


class _Dechunker:
    """Takes HTTP/1.1 chunks apart, as they come (RFC 9112, section 7.1)."""

    def __init__(self) -> None:
        self.is_complete = False
        self._buffer = b""
        self._left = 0  # bytes of the current chunk still to come, with the line end after it

    def feed(self, data: bytes) -> bytes:
        buffer, parts = self._buffer + data, []
        while buffer and not self.is_complete:
            if self._left:
                piece, buffer = buffer[: self._left], buffer[self._left :]
                self._left -= len(piece)
                # The last two bytes are the line end
                parts.append(piece[: max(0, len(piece) - max(0, 2 - self._left))])
                continue
            line, end, rest = buffer.partition(b"\r\n")
            if not end:
                break
            size = int(line.split(b";")[0], 16)
            self.is_complete = size == 0
            self._left, buffer = size + 2, rest
        self._buffer = buffer
        return b"".join(parts)


async def ask(url: str, body: bytes, key: str | None) -> Recording:
    """POST a body and record the answer.

    Raises:
        OSError: the server can't be reached.
        TimeoutError: the answer did not end in time.
    """
    place = urlsplit(url)
    lines = [
        f"POST {place.path} HTTP/1.1",
        f"Host: {place.netloc}",
        "Content-Type: application/json",
        "Accept: text/event-stream",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    request = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    recording = Recording(request, done)
    transport, _ = await loop.create_connection(lambda: recording, place.hostname or "127.0.0.1", place.port or 80)
    try:
        await asyncio.wait_for(done, RECEIVE_TIMEOUT_S)
    finally:
        transport.close()
    return recording
