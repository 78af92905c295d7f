"""Cuts values out of JSON that comes in pieces, and reads the JSON object that a call is in most formats.

The scanner counts brackets and knows strings and escapes, no more: what a model writes wrongly inside a value stays
as it wrote it. Knows no markers but the one that would end a call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from llmapi_kit.dialects.calls import Calls
from llmapi_kit.dialects.text_stream import Steps, TextStream, is_next, peek, skip_space

ARGUMENT_KEYS = ("arguments", "parameters")
BESIDE_KEYS = ("type", "id")

_IN_STRING = re.compile(r'["\\]')
_SCALAR_END = re.compile(r"[,}\]\s]")


class ValueScanner:
    """Finds where one JSON value ends, over any number of texts.

    Args:
        foreign: a character that stands in no JSON outside of strings; the scan stops before it.

    Attributes:
        is_complete: the value has ended where the scan stopped.
    """

    def __init__(self, foreign: str = "") -> None:
        self._structure = re.compile(f'["{{}}\\[\\]{re.escape(foreign)}]')
        self._foreign = foreign
        self._depth = 0
        self._is_begun = self._is_scalar = self._is_string = self._is_escaped = False
        self.is_complete = False

    def scan(self, text: str, at: int = 0) -> int:
        """The position at which the scan stops; -1 where the text ends first. The value starts at once."""
        if not self._is_begun and at < len(text):
            self._is_begun = True
            self._is_scalar = text[at] not in '{["'
        while at < len(text):
            if self._is_escaped:
                at += 1
                self._is_escaped = False
                continue
            pattern = _IN_STRING if self._is_string else _SCALAR_END if self._is_scalar else self._structure
            match = pattern.search(text, at)
            if self._is_scalar and self._foreign:
                foreign_at = text.find(self._foreign, at, match.start() if match else len(text))
                if foreign_at >= 0:
                    return foreign_at
            if match is None:
                return -1
            if self._is_scalar:
                self.is_complete = True
                return match.start()
            if match[0] == self._foreign and not self._is_string:
                return match.start()
            at = match.end()
            self._pass(match[0])
            if not self._depth and not self._is_string:
                self.is_complete = True
                return at
        return -1

    def _pass(self, char: str) -> None:
        if char == "\\":
            self._is_escaped = True
        elif char == '"':
            self._is_string = not self._is_string
        else:
            self._depth += 1 if char in "{[" else -1


def read_value(stream: TextStream, emit: Callable[[str], None], end_marker: str = "") -> Steps[bool]:
    """Read a JSON value, which starts with the next character, and emit its text as it comes.

    Args:
        stream: what to read from.
        emit: takes the value's text, piece by piece.
        end_marker: a text that ends the value though it is incomplete, where it stands outside of a string.

    Returns:
        Whether the value is complete. If not, the end marker comes next, or the reply has ended.
    """
    scanner = ValueScanner(end_marker[:1])
    while True:
        end = stream.scan(scanner.scan)
        size = len(stream) if end < 0 else end
        if size:
            emit(stream.take(size))
        if scanner.is_complete:
            return True
        if end >= 0:
            if (yield from is_next(stream, end_marker)):
                return False
            emit(stream.take(1))
        elif stream.is_ended:
            return False
        elif not len(stream):
            yield


class CallObject:
    """A call as a JSON object with ``name`` and ``arguments`` (or ``parameters``), in any order; others are dropped.

    Args:
        calls: where the call goes.
        end_marker: the text that ends a call of this format, in case the object is broken.
        is_certain: something before the object says that it is a call, so it begins with its name, whatever that
            is. If not, it takes a known function's name and arguments, and nothing beside them but an id or type.
    """

    def __init__(self, calls: Calls, *, end_marker: str = "", is_certain: bool = True) -> None:
        self._calls = calls
        self._stream = calls.stream
        self._end_marker = end_marker
        self._is_certain = is_certain
        self._name = ""
        self._is_begun = False
        self._early: list[str] = []  # arguments that came before the name
        self._has_arguments = False

    def read(self) -> Steps[bool]:
        """Read the object, whose opening brace comes next. Whether it is whole and calls a function."""
        stream = self._stream
        stream.take(1)
        yield from skip_space(stream)
        if (yield from peek(stream)) == "}":
            return False
        while (yield from self._read_member()):
            yield from skip_space(stream)
            char = yield from peek(stream)
            if char == "}":
                return self._end()
            if char != ",":
                return False
            stream.take(1)
            yield from skip_space(stream)
        return False

    def _read_member(self) -> Steps[bool]:
        """A key and its value; whether both are whole and the object may still be a call."""
        stream = self._stream
        if (yield from peek(stream)) != '"':
            return False
        key = yield from self._read_text()
        if not self._is_certain and key not in ("name", *ARGUMENT_KEYS, *BESIDE_KEYS):
            return False
        yield from skip_space(stream)
        if (yield from peek(stream)) != ":":
            return False
        stream.take(1)
        yield from skip_space(stream)
        first = yield from peek(stream)
        if key == "name":
            return first == '"' and (yield from self._read_name())
        if key in ARGUMENT_KEYS and not self._has_arguments:
            return (yield from self._read_arguments(first))
        return first != "" and (yield from read_value(stream, _ignore, self._end_marker))

    def _read_name(self) -> Steps[bool]:
        name = yield from self._read_text()
        if not name or self._name:
            return False
        if not self._is_certain and name not in self._calls.functions:
            return False
        self._name = name
        if self._is_certain or self._has_arguments:
            self._begin()
        return True

    def _read_arguments(self, first: str) -> Steps[bool]:
        """The arguments: an object as it comes; of a string, what is in it; null for none."""
        stream = self._stream
        self._has_arguments = True
        if self._name and not self._is_begun:
            self._begin()
        if first != "{":
            parts: list[str] = []
            is_whole = first != "" and (yield from read_value(stream, parts.append, self._end_marker))
            self._add(_unpacked("".join(parts)))
            return is_whole
        return (yield from read_value(stream, self._add, self._end_marker))

    def _add(self, arguments: str) -> None:
        if self._is_begun:
            self._calls.add(arguments)
        else:
            self._early.append(arguments)

    def _begin(self) -> None:
        self._is_begun = True
        self._calls.begin(self._name)
        self._calls.add("".join(self._early))

    def _end(self) -> bool:
        self._stream.take(1)
        if not self._is_begun:
            return False
        if not self._has_arguments:
            self._calls.add("{}")
        self._calls.keep()
        return True

    def _read_text(self) -> Steps[str]:
        """A JSON string's text; empty if it is broken."""
        parts: list[str] = []
        yield from read_value(self._stream, parts.append)
        return _decoded("".join(parts))


def _unpacked(value: str) -> str:
    if value.startswith('"'):
        return _decoded(value) or value
    return "{}" if value == "null" else value


def _decoded(text: str) -> str:
    try:
        value = json.loads(text, strict=False)
    except ValueError:
        return ""
    return value if isinstance(value, str) else ""


def _ignore(_text: str) -> None:
    return None
