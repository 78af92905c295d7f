"""Takes server-sent events apart, as bytes come in; and a body that is JSON in place of events.

The openai client has a reader too, but it keeps an event of any size in memory and can't tell a stream that ended from
one that broke off.

Source: WHATWG HTML, section "Interpreting an event stream"; only ``data`` counts here.
"""

from __future__ import annotations

import re

MAX_EVENT_BYTES = 16 * 1024 * 1024
BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\n|\r(?=.)", re.DOTALL)


class EventTooLargeError(ValueError):
    """An event is larger than anybody would send."""


class BodyParser:
    """Takes a body without events: its only data is the whole of it."""

    def __init__(self, max_body_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_body_bytes = max_body_bytes
        self._body = bytearray()

    def feed(self, part: bytes) -> list[bytes]:
        """Nothing yet.

        Raises:
            EventTooLargeError: it outgrew the limit.
        """
        self._body += part
        if len(self._body) > self._max_body_bytes:
            raise EventTooLargeError(f"a body has more than {self._max_body_bytes:,} bytes")
        return []

    def flush(self) -> list[bytes]:
        """The body."""
        return [bytes(self._body)]


class SSEParser:
    """Feed it bytes; it gives the data of each event that is complete."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._rest = bytearray()  # of a line that has not ended
        self._searched = 0  # of it, bytes that have no line end
        self._data: list[bytes] = []
        self._size = 0
        self._is_first_line = True

    def feed(self, part: bytes) -> list[bytes]:
        """The data of the events that end in this part.

        Raises:
            EventTooLargeError: one outgrew the limit.
        """
        self._rest += part
        events: list[bytes] = []
        start = 0
        for match in _LINE_END.finditer(self._rest, max(0, self._searched - 1)):
            self._take(bytes(self._rest[start : match.start()]), events)
            start = match.end()
        del self._rest[:start]
        self._searched = len(self._rest)
        if self._size + len(self._rest) > self._max_event_bytes:
            raise EventTooLargeError(f"an event has more than {self._max_event_bytes:,} bytes")
        return events

    def flush(self) -> list[bytes]:
        """The data of an event that the stream ended in, without the empty line after it."""
        events: list[bytes] = []
        self._take(bytes(self._rest), events)
        self._take(b"", events)
        return events

    def _take(self, line: bytes, events: list[bytes]) -> None:
        if self._is_first_line:
            self._is_first_line, line = False, line.removeprefix(BOM)
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
            self._data, self._size = [], 0
        elif line.startswith(b"data:"):
            value = line[5:].removeprefix(b" ")
            self._data.append(value)
            self._size += len(value) + 1
            if self._size > self._max_event_bytes:
                raise EventTooLargeError(f"an event has more than {self._max_event_bytes:,} bytes")
