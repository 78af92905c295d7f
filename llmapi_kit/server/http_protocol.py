"""uvicorn's HTTP/1 protocol, kinder to old and to very new clients and less to hostile ones.

An offered upgrade that is not taken is ignored and the request answered; an HTTP/1.0 client gets no chunks; a request
to a whole address is one to the host in it; headers have a limit, and so have the time that a request takes to arrive,
the time that an answer waits to be read, and the number of connections; what is not HTTP is refused in the API's own
words. One object a connection, on the server's event loop.

Source: RFC 9110, section 7.8 (upgrades); RFC 9112, sections 3.2.2 (whole addresses) and 6.3 (bodies without a length).
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import json
from typing import Any, Literal

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from llmapi_kit.api.errors import error_body
from llmapi_kit.errors import HeadersTooLargeError, InvalidRequestError, RequestError, RequestIncompleteError

MAX_HEADER_BYTES = 16_384
MAX_URL_BYTES = 65_535  # the parser's own limit, which it tells as a mistake in the address
# Without them, a client that sends a byte now and then, or does not read its answer, holds its connection for ever.
MAX_HEAD_S = 30.0
MAX_BODY_S = 120.0
STALLED_READER_S = 30.0  # of a complete answer; `EventStream` looks after those that go on
MOST_CONNECTIONS = 2048
UPGRADE_HEADERS = (b"upgrade", b"http2-settings")


class HttpProtocol(HttpToolsProtocol):
    """One connection.

    Attributes:
        made_at: when it was, in the event loop's time.
    """

    made_at = 0.0
    _num_header_bytes = 0
    _num_requests = 0
    _part: Literal["head", "body", None] = "head"  # of a request, that is still to come
    _awaited: tuple[int, str | None] = (0, None)
    _timer: asyncio.TimerHandle | None = None
    _reader_timer: asyncio.TimerHandle | None = None

    @property
    def is_spare(self) -> bool:
        """Whether it is open and nothing is being answered on it, as its request is still to come."""
        if self.transport.is_closing():
            return False
        return self._part is not None or self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there. Beyond the limit, the one that has been there longest without a request makes room."""
        super().connection_made(transport)
        self.made_at = self.loop.time()
        self._await_part()
        if len(self.connections) > MAX_CONNECTIONS:
            spare = [each for each in self.connections if isinstance(each, HttpProtocol) and each.is_spare]
            min(spare, key=lambda each: each.made_at, default=self).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or was made to."""
        for timer in (self._timer, self._reader_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads more slowly than it is answered."""
        super().pause_writing()
        self._look_at_reader(None)

    def resume_writing(self) -> None:
        """The client has read on."""
        if self._reader_timer is not None:
            self._reader_timer.cancel()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._unset_keepalive_if_required()
        if self._part is None and self.cycle.response_complete:
            self._part = "head"  # also where it is an empty line, with which no request begins
        head_before = self._num_requests if self._part == "head" else None
        try:
            self._feed(data)
        except httptools.HttpParserError as exc:
            self._refuse(exc.__context__ if isinstance(exc.__context__, RequestError) else None)
            return
        # A header that never ends is not handed over, so it is counted as it comes
        if self._part == "head" and self._num_requests == head_before:
            self._num_header_bytes += len(data)
            if self._num_header_bytes > MAX_HEADER_BYTES + len(self.url):
                self._refuse(_headers_too_large())
                return
        self._await_part()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._part = "head"
        self._num_requests += 1
        self._num_header_bytes = 0

    def on_url(self, url: bytes) -> None:
        """A piece of the address came."""
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            raise InvalidRequestError(
                f"The address has more than {MAX_URL_BYTES:,} bytes, the most this server takes. Send it as a body."
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header is complete."""
        self._num_header_bytes += len(name) + len(value)
        if self._num_header_bytes > MAX_HEADER_BYTES:
            raise _headers_too_large()
        # What follows a body in chunks is no header any more: a proxy in front may have checked those before it only
        if self._part == "head":
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The application begins to answer."""
        self._part = "body"
        if self.parser.get_method() == b"CONNECT":
            raise InvalidRequestError("CONNECT is for proxies, and this server is not one. Send the request itself.")
        if self.parser.should_upgrade():
            return  # `_feed` has it parsed again, without the offer
        if (host := _host_in(self.url)) is not None:
            self.headers[:] = [(name, host if name == b"host" else value) for name, value in self.headers]
        super().on_headers_complete()
        if self.parser.get_http_version() == "1.0":
            self.cycle.__class__ = _UndelimitedCycle  # uvicorn has no other way to choose it

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._part = None
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _feed(self, data: bytes) -> None:
        """Parse; a request that offers an upgrade ends for the parser with its headers, so it is given it without."""
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as exc:
                data = self._head_without_upgrade() + data[exc.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                with contextlib.suppress(AttributeError):  # before httptools 0.6.3; as uvicorn sets it
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _head_without_upgrade(self) -> bytes:
        """The head of the request, as it is without what offers to upgrade."""
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                kept = [token for token in value.split(b",") if token.strip().lower() not in UPGRADE_HEADERS]
                lines.append(b"%s: %s" % (name, b",".join(kept)))
            elif name not in UPGRADE_HEADERS:
                lines.append(b"%s: %s" % (name, value))
        return b"\r\n".join([*lines, b"", b""])

    def _await_part(self) -> None:
        """Have the timer run for the part that is to come now; more bytes of the same part do not set it back."""
        if self._awaited == (self._num_requests, self._part):
            return
        self._awaited = self._num_requests, self._part
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._part is not None:
            seconds = MAX_HEAD_S if self._part == "head" else MAX_BODY_S
            self._timer = self.loop.call_later(seconds, self._time_out, seconds)

    def _time_out(self, seconds: float) -> None:
        if self.flow.read_paused:  # it is the server that does not read on
            self._timer = self.loop.call_later(seconds, self._time_out, seconds)
        elif self._num_requests == 0 or self._is_answering():
            self.transport.close()
        else:
            what = "headers" if self._part == "head" else "body"
            self._refuse(RequestIncompleteError(f"The request's {what} did not arrive within {seconds:g} s."))

    def _is_answering(self) -> bool:
        """Whether an answer has begun: to the request before, or to this one without all of its body."""
        cycle = self.cycle
        return cycle is not None and cycle.response_started and (self._part == "body" or not cycle.response_complete)

    def _look_at_reader(self, num_before: int | None) -> None:
        """Give up a client that has read nothing of a complete answer since the last look."""
        num_unread = self.transport.get_write_buffer_size()
        is_complete = self.cycle is None or self.cycle.response_complete
        if num_before is not None and is_complete and num_unread >= num_before:
            self.transport.abort()
        else:
            self._reader_timer = self.loop.call_later(STALLED_READER_S, self._look_at_reader, num_unread)

    def _refuse(self, error: RequestError | None) -> None:
        """Answer what is not a request, and close the connection."""
        error = error or InvalidRequestError("This is not a valid HTTP request.")
        body = json.dumps(error_body(error)).encode()
        head = (
            f"HTTP/1.1 {error.status} {http.HTTPStatus(error.status).phrase}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


class _UndelimitedCycle(RequestResponseCycle):
    """A response that ends where the connection does, unless it says how long it is."""

    _is_undelimited = False

    async def send(self, message: Any) -> None:
        """Send a part of the response."""
        if message["type"] == "http.response.start":
            self._is_undelimited = all(name.lower() != b"content-length" for name, _ in message["headers"])
            if self._is_undelimited:
                self.chunked_encoding = False
        elif self._is_undelimited:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


def _host_in(target: bytes) -> bytes | None:
    """The host and port of a request for a whole address; None where it names a path only, as usual."""
    if target.startswith(b"/"):
        return None
    url = httptools.parse_url(target)
    if url.host is None:
        return None
    host = b"[%s]" % url.host if b":" in url.host else url.host
    return host if url.port is None else b"%s:%d" % (host, url.port)


def _max_connections() -> int:
    """Half of the files that this process may have open, as its cells have some, too."""
    try:
        import resource
    except ImportError:  # Windows
        return MOST_CONNECTIONS
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if limit == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, limit // 2)


def _headers_too_large() -> HeadersTooLargeError:
    return HeadersTooLargeError(f"The headers have more than {MAX_HEADER_BYTES:,} bytes, the most this server takes.")


MAX_CONNECTIONS = _max_connections()
