"""uvicorn's HTTP/1 protocol, kinder to old and to very new clients and less to hostile ones.

An offered upgrade that is not taken is ignored and the request answered; an HTTP/1.0 client gets no chunks; a request
to a whole address is one to the host in it; headers have a limit; what is no HTTP is refused in the API's own words.
One object a connection, on the server's event loop.

Source: RFC 9110, section 7.8 (upgrades); RFC 9112, sections 3.2.2 (whole addresses) and 6.3 (bodies without a length).
"""

from __future__ import annotations

import contextlib
import http
import json
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from llmapi_kit.api.errors import error_body
from llmapi_kit.errors import HeadersTooLargeError, InvalidRequestError, RequestError

MAX_HEADER_BYTES = 16_384
MAX_URL_BYTES = 65_535  # the parser's own limit, which it tells as a mistake in the address
UPGRADE_HEADERS = (b"upgrade", b"http2-settings")


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    _num_header_bytes = 0
    _is_in_head = False

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._unset_keepalive_if_required()
        was_in_head = self._is_in_head
        try:
            self._feed(data)
        except httptools.HttpParserError as exc:
            self._refuse(exc.__context__ if isinstance(exc.__context__, RequestError) else None)
            return
        # A header that never ends is not handed over, so it is counted as it comes
        if was_in_head and self._is_in_head:
            self._num_header_bytes += len(data)
            if self._num_header_bytes > MAX_HEADER_BYTES + len(self.url):
                self._refuse(_headers_too_large())

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._is_in_head = True
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
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The application begins to answer."""
        self._is_in_head = False
        if self.parser.get_method() == b"CONNECT":
            raise InvalidRequestError("CONNECT is for proxies, and this server is none.")
        if self.parser.should_upgrade():
            return  # `_feed` has it parsed again, without the offer
        if (host := _host_in(self.url)) is not None:
            self.headers[:] = [(name, host if name == b"host" else value) for name, value in self.headers]
        super().on_headers_complete()
        if self.parser.get_http_version() == "1.0":
            self.cycle.__class__ = _UndelimitedCycle  # uvicorn has no other way to choose it

    def on_message_complete(self) -> None:
        """The request is complete."""
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

    def _refuse(self, error: RequestError | None) -> None:
        """Answer what is no request, and close the connection."""
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


def _headers_too_large() -> HeadersTooLargeError:
    return HeadersTooLargeError(f"The headers have more than {MAX_HEADER_BYTES:,} bytes, the most this server takes.")
