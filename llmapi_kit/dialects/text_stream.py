"""A reply's text as it comes, and small readers that wait for more of it.

The readers are generators: each `yield` gives way until more text is there or the reply has ended, so a format is
written down in the order in which it is read, and half a marker needs no state of its own. Knows no format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]

SPACE = " \t\r\n"
MAX_NAME = 256  # bounds how much of a stream is left unread

_SPACES = re.compile(r"[ \t\r\n]*")


class TextStream:
    """What has arrived and is not read yet. What a reader leaves unread must be short, or time is not linear.

    Attributes:
        is_ended: nothing more will come.
        record: with a list, everything read is also put here.
    """

    __slots__ = ("_at", "_text", "is_ended", "record")

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self.is_ended = False
        self.record: list[str] | None = None

    def feed(self, text: str) -> None:
        """Add what came."""
        self._text = self._text[self._at :] + text
        self._at = 0

    def __len__(self) -> int:
        """Characters that are there and not read yet."""
        return len(self._text) - self._at

    def take(self, size: int) -> str:
        """Read so many characters, or as many as are there."""
        text = self._text[self._at : self._at + size]
        self._at += len(text)
        if self.record is not None and text:
            self.record.append(text)
        return text

    def next(self, size: int = 1) -> str:
        """The next characters, or as many as are there, unread."""
        return self._text[self._at : self._at + size]

    def find(self, pattern: re.Pattern[str]) -> tuple[int, str] | None:
        """Where, from here, the pattern's first match starts, and its text."""
        match = pattern.search(self._text, self._at)
        return None if match is None else (match.start() - self._at, match[0])

    def measure(self, pattern: re.Pattern[str]) -> int:
        """How many characters from here match the pattern."""
        match = pattern.match(self._text, self._at)
        return 0 if match is None else match.end() - self._at

    def scan(self, scanner: Callable[[str, int], int]) -> int:
        """Where, from here, the scanner stops; it gets all the text and a position in it. -1: not in this text."""
        end = scanner(self._text, self._at)
        return end if end < 0 else end - self._at

    def count_partial(self, markers: Sequence[str]) -> int:
        """How many characters at the end may be the start of a marker, none of which stands here in full."""
        size = len(self._text)
        partial = 0
        for marker in markers:
            at = self._text.find(marker[0], max(self._at, size - len(marker) + 1))
            while at >= 0 and not marker.startswith(self._text[at:]):
                at = self._text.find(marker[0], at + 1)
            if at >= 0:
                partial = max(partial, size - at)
        return partial


def peek(stream: TextStream) -> Steps[str]:
    """The next character, unread; empty at the end."""
    while not len(stream) and not stream.is_ended:
        yield
    return stream.next()


def skip_space(stream: TextStream) -> Steps[str]:
    """Read whitespace, and give it back."""
    parts = []
    while True:
        parts.append(stream.take(stream.measure(_SPACES)))
        if len(stream) or stream.is_ended:
            return "".join(parts)
        yield


def is_next(stream: TextStream, text: str) -> Steps[bool]:
    """Whether this text comes next; it stays unread."""
    while True:
        there = stream.next(len(text))
        if there == text:
            return True
        if stream.is_ended or not text.startswith(there):
            return False
        yield


def read_literal(stream: TextStream, text: str) -> Steps[bool]:
    """Read this text if it comes next."""
    found = yield from is_next(stream, text)
    if found:
        stream.take(len(text))
    return found


def read_name(stream: TextStream, pattern: re.Pattern[str]) -> Steps[str]:
    """Read a function's or an argument's name: as far as the pattern matches, up to `MAX_NAME` characters."""
    while True:
        size = stream.measure(pattern)
        if size < len(stream) or size >= MAX_NAME or stream.is_ended:
            return stream.take(min(size, MAX_NAME))
        yield


def read_until(stream: TextStream, markers: Sequence[str], emit: Callable[[str], None]) -> Steps[str]:
    """Read up to and with the first of some markers; what is before it is emitted as it comes.

    Returns:
        The marker; empty at the reply's end, which half a marker does not outlive.
    """
    pattern = re.compile("|".join(map(re.escape, markers)))
    while True:
        found = stream.find(pattern)
        if found is not None:
            size, marker = found
            if size:
                emit(stream.take(size))
            return stream.take(len(marker))
        size = len(stream) - (0 if stream.is_ended else stream.count_partial(markers))
        if size:
            emit(stream.take(size))
        if stream.is_ended:
            return ""
        yield
