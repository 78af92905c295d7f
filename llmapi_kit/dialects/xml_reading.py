"""Reads ``<function=name><parameter=key>value</parameter></function>`` and makes JSON of it.

Values are bare text; only the function's schema says of what type one is. Strings come out as they come, other
values when they are whole. A string ends at the first ``</parameter>``, which the format has no way to write inside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from llmapi_kit.dialects.base import Function
from llmapi_kit.dialects.calls import Calls
from llmapi_kit.dialects.json_calls import read_value
from llmapi_kit.dialects.schema_types import STRING, json_text, property_schema, types_of
from llmapi_kit.dialects.text_stream import (
    Steps,
    TextStream,
    is_next,
    peek,
    read_literal,
    read_until,
    read_while,
    skip_space,
)

FUNCTION, FUNCTION_END = "<function=", "</function>"
PARAMETER, PARAMETER_END = "<parameter=", "</parameter>"
MAX_NAME = 256

_NAME = re.compile(r"[^<>\n]*")


def read_function(calls: Calls, end_marker: str) -> Steps[bool]:
    """Read the rest of a function's block, of which ``<function=`` is read. Whether it was whole.

    Args:
        calls: where the call goes.
        end_marker: a text that also ends the block, its own closing tag being forgotten; it stays unread.
    """
    stream = calls.stream
    name = yield from _read_name(stream)
    if not name:
        return False
    calls.begin(name)
    function = calls.functions.get(name)
    separator = "{"
    while True:
        yield from skip_space(stream)
        if (yield from read_literal(stream, PARAMETER)):
            key = yield from _read_name(stream)
            if not key:
                return False
            calls.add(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
            separator = ", "
            if not (yield from _read_argument(calls, function, key)):
                return False
        elif (yield from read_literal(stream, FUNCTION_END)) or (yield from is_next(stream, end_marker)):
            calls.add("{}" if separator == "{" else "}")
            return True
        else:
            return False


def _read_name(stream: TextStream) -> Steps[str]:
    """A name up to its closing bracket; empty where it is none."""
    name = yield from read_while(stream, _NAME, MAX_NAME)
    return name.strip() if (yield from read_literal(stream, ">")) else ""


def _read_argument(calls: Calls, function: Function | None, key: str) -> Steps[bool]:
    """One argument's value, without the line break on either side. Whether it was whole."""
    stream = calls.stream
    if (yield from peek(stream)) == "\n":
        stream.take(1)
    types = STRING
    if function is not None:
        types = types_of(property_schema(function.parameters, key), function.parameters)
    if types == STRING:
        calls.add('"')
        out = _WithoutLastBreak(lambda part: calls.add(json.dumps(part, ensure_ascii=False)[1:-1]))
        is_whole = bool((yield from read_until(stream, (PARAMETER_END,), out.add)))
        calls.add('"' if is_whole else "")
        return is_whole
    parts: list[str] = []
    if "string" not in types and (yield from peek(stream)) in ("{", "["):
        yield from read_value(stream, parts.append, PARAMETER_END)  # its strings may hold the closing tag
    is_whole = bool((yield from read_until(stream, (PARAMETER_END,), parts.append)))
    text = "".join(parts).removesuffix("\n")
    calls.add(json_text(text, types) if is_whole else text)
    return is_whole


class _WithoutLastBreak:
    """Passes text on but for one line break at its end."""

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit
        self._held = ""

    def add(self, text: str) -> None:
        text = self._held + text
        self._held = "\n" if text.endswith("\n") else ""
        if len(text) > len(self._held):
            self._emit(text[: len(text) - len(self._held)])
