"""Calls of DeepSeek V3 and R1, with a type, a name and fenced JSON, and of V3.1, with a name and JSON.

Both are read, whichever the model writes.

Source: the chat templates of DeepSeek V3, R1 and V3.1.
"""

# ruff: noqa: RUF001  (the markers are spelled so)
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llmapi_kit.dialects.base import Function
from llmapi_kit.dialects.calls import Calls
from llmapi_kit.dialects.grammar import Grammar, arguments_schema, quoted
from llmapi_kit.dialects.json_calls import read_value
from llmapi_kit.dialects.text_stream import Steps, is_next, peek, read_literal, read_name, skip_space

CALLS_BEGIN, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL_BEGIN, CALL_END, SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
FENCE, JSON_FENCE = "```", "```json"

_NAME = re.compile(r"[^<{`\n]*")


@dataclass(frozen=True, slots=True)
class DeepSeekCalls:
    """See `llmapi_kit.dialects.call_form.CallForm`.

    Attributes:
        is_fenced: the model writes ``function``, the name, and the arguments in a code fence; if not, name and
            arguments alone.
    """

    is_fenced: bool = True
    starts: tuple[str, ...] = (CALLS_BEGIN, CALL_BEGIN)
    markers: tuple[str, ...] = (CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_END, SEPARATOR)
    is_bare: bool = False

    def read(self, calls: Calls, start: str) -> Steps[bool]:
        """See `CallForm.read`."""
        stream = calls.stream
        if start == CALLS_BEGIN:
            yield from skip_space(stream)
            if not (yield from read_literal(stream, CALL_BEGIN)):
                return False
        while (yield from self._read_call(calls)):
            calls.keep()
            yield from skip_space(stream)
            if (yield from read_literal(stream, CALLS_END)):
                return True
            if not (yield from read_literal(stream, CALL_BEGIN)):
                return False
        return False

    def _read_call(self, calls: Calls) -> Steps[bool]:
        """What follows a call's beginning, up to its end. Whether it is whole."""
        stream = calls.stream
        name = yield from read_name(stream, _NAME)
        if not (yield from read_literal(stream, SEPARATOR)):
            return False
        yield from skip_space(stream)
        if (yield from peek(stream)) != "{" and not (yield from is_next(stream, CALL_END)):
            name = yield from read_name(stream, _NAME)  # what came first was the call's type
            yield from skip_space(stream)
            yield from read_literal(stream, JSON_FENCE)
            yield from skip_space(stream)
        if not name.strip() or not ((yield from peek(stream)) == "{" or (yield from is_next(stream, CALL_END))):
            return False
        calls.begin(name.strip())
        if stream.next() == "{":
            yield from read_value(stream, calls.add, CALL_END)
        else:
            calls.add("{}")
        yield from skip_space(stream)
        yield from read_literal(stream, FENCE)
        yield from skip_space(stream)
        return (yield from read_literal(stream, CALL_END))

    def write(self, grammar: Grammar, functions: Sequence[Function], *, parallel: bool) -> str:
        """See `CallForm.write`."""
        return f"{grammar.marker(CALLS_BEGIN)} {self._calls(grammar, functions, parallel=parallel)}"

    def write_after(self, grammar: Grammar, functions: Sequence[Function], start: str) -> str:
        """See `CallForm.write_after`."""
        if start == CALLS_BEGIN:
            return self._calls(grammar, functions, parallel=True)
        return self._call(grammar, functions)

    def _calls(self, grammar: Grammar, functions: Sequence[Function], *, parallel: bool) -> str:
        begin = grammar.marker(CALL_BEGIN)
        call = self._call(grammar, functions)
        between = quoted("\n") if self.is_fenced else ""
        more = f"({between} {begin} {call})*" if parallel else ""
        return grammar.rule(f"{begin} {call} {more} {grammar.marker(CALLS_END)}")

    def _call(self, grammar: Grammar, functions: Sequence[Function]) -> str:
        separator, end = grammar.marker(SEPARATOR), grammar.marker(CALL_END)
        if self.is_fenced:
            before = f"{quoted('function')} {separator}"
            name_end, after = f"\n{JSON_FENCE}\n", quoted(f"\n{FENCE}")
            parts = (f"{quoted(function.name + name_end)} {self._json(grammar, function)}" for function in functions)
            return grammar.rule(f"{before} {grammar.choice(parts)} {after} {end}")
        parts = (f"{quoted(function.name)} {separator} {self._json(grammar, function)}" for function in functions)
        return grammar.rule(f"{grammar.choice(parts)} {end}")

    def _json(self, grammar: Grammar, function: Function) -> str:
        return grammar.json(arguments_schema(function))
