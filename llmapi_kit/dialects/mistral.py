"""Calls after ``[TOOL_CALLS]``: a JSON array of objects, or a name and its arguments, each call with its own marker.

The second form comes with ``[ARGS]`` between name and arguments, in some models with ``[CALL_ID]`` and an id before
that, and in others with neither. All are read, whichever the model writes.

Source: the chat templates of Mistral 7B Instruct v0.3, Mistral Small 3 and Ministral 3.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llmapi_kit.dialects.base import Function
from llmapi_kit.dialects.calls import Calls
from llmapi_kit.dialects.grammar import Grammar, arguments_schema, call_object, quoted
from llmapi_kit.dialects.json_calls import CallObject, read_value
from llmapi_kit.dialects.text_stream import Steps, peek, read_literal, read_name, skip_space

TOOL_CALLS, CALL_ID, ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"

_NAME = re.compile(r"[\w.:/-]*")


@dataclass(frozen=True, slots=True)
class MistralCalls:
    """See `llmapi_kit.dialects.call_form.CallForm`.

    Attributes:
        is_array: the model writes an array of objects; if not, names and arguments.
        has_call_id: between name and arguments, it writes an id.
    """

    is_array: bool = True
    has_call_id: bool = False
    starts: tuple[str, ...] = (TOOL_CALLS,)
    markers: tuple[str, ...] = (TOOL_CALLS, CALL_ID, ARGS)
    is_bare: bool = False

    def read(self, calls: Calls, start: str) -> Steps[bool]:
        """See `CallForm.read`."""
        yield from skip_space(calls.stream)
        char = yield from peek(calls.stream)
        if char == "[":
            return (yield from self._read_array(calls))
        if char == "{":
            return (yield from CallObject(calls).read())
        return (yield from self._read_named(calls))

    def _read_array(self, calls: Calls) -> Steps[bool]:
        stream = calls.stream
        stream.take(1)
        while True:
            yield from skip_space(stream)
            if (yield from peek(stream)) != "{" or not (yield from CallObject(calls).read()):
                return False
            yield from skip_space(stream)
            char = yield from peek(stream)
            if char not in ("]", ","):
                return False
            stream.take(1)
            if char == "]":
                return True

    def _read_named(self, calls: Calls) -> Steps[bool]:
        stream = calls.stream
        name = yield from read_name(stream, _NAME)
        yield from skip_space(stream)
        if (yield from read_literal(stream, CALL_ID)):
            yield from read_name(stream, _NAME)
        yield from read_literal(stream, ARGS)
        yield from skip_space(stream)
        if not name or (yield from peek(stream)) != "{":
            return False
        calls.begin(name)
        return (yield from read_value(stream, calls.add))

    def write(self, grammar: Grammar, functions: Sequence[Function], *, parallel: bool) -> str:
        """See `CallForm.write`."""
        marker = grammar.marker(TOOL_CALLS)
        if self.is_array:
            return f"{marker} {self._array(grammar, functions, parallel=parallel)}"
        call = grammar.rule(f"{marker} {self.write_after(grammar, functions, TOOL_CALLS)}")
        return f"{call}+" if parallel else call

    def write_after(self, grammar: Grammar, functions: Sequence[Function], start: str) -> str:
        """See `CallForm.write_after`."""
        if self.is_array:
            return self._array(grammar, functions, parallel=True)
        before = f"{grammar.marker(CALL_ID)} {grammar.terminal('/[a-zA-Z0-9]{9}/')} " if self.has_call_id else ""
        return grammar.choice(
            f"{quoted(function.name)} {before}{grammar.marker(ARGS)} {grammar.json(arguments_schema(function))}"
            for function in functions
        )

    def _array(self, grammar: Grammar, functions: Sequence[Function], *, parallel: bool) -> str:
        call = grammar.choice(call_object(grammar, function, "arguments") for function in functions)
        calls = f'{call} (", " {call})*' if parallel else call
        return grammar.rule(f'/ ?\\[/ {calls} "]"')
