"""Calls between ``<tool_call>`` and ``</tool_call>``.

A JSON object (Hermes, Qwen 2.5, Qwen 3, the pocket model), or XML-like tags (Qwen3-Coder and later Qwens). Each form
reads the other one too, since models of either family slip into it; what it writes is its own.

Source: the chat templates of Hermes 2 Pro, Qwen2.5, Qwen3 and Qwen3-Coder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmapi_kit.dialects.base import Function
from llmapi_kit.dialects.calls import Calls
from llmapi_kit.dialects.grammar import Grammar, call_object
from llmapi_kit.dialects.json_calls import CallObject
from llmapi_kit.dialects.text_stream import Steps, is_next, peek, read_literal, skip_space
from llmapi_kit.dialects.xml_calls import FUNCTION, function_block, read_function

OPENING, CLOSING = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class HermesCalls:
    """See `llmapi_kit.dialects.call_form.CallForm`.

    Attributes:
        is_xml: the model writes XML-like tags, and sometimes forgets the outer one.
    """

    is_xml: bool = False
    is_bare: bool = False

    @property
    def starts(self) -> tuple[str, ...]:
        """See `CallForm`."""
        return (OPENING, FUNCTION) if self.is_xml else (OPENING,)

    @property
    def markers(self) -> tuple[str, ...]:
        """See `CallForm`."""
        return (OPENING, CLOSING)

    def read(self, calls: Calls, start: str) -> Steps[bool]:
        """See `CallForm.read`."""
        stream = calls.stream
        num_before = calls.num_begun
        is_function = start == FUNCTION
        while True:
            if not is_function:
                yield from skip_space(stream)
                is_function = yield from read_literal(stream, FUNCTION)
            if is_function:
                is_whole = yield from read_function(calls, CLOSING)
            elif (yield from peek(stream)) == "{":
                is_whole = yield from CallObject(calls, end_marker=CLOSING).read()
            else:
                is_whole = False
            yield from skip_space(stream)
            if (yield from read_literal(stream, CLOSING)):
                return calls.num_begun > num_before
            if not is_whole or not (yield from self._has_another(calls)):
                return False
            is_function = False

    def _has_another(self, calls: Calls) -> Steps[bool]:
        return (yield from peek(calls.stream)) == "{" or (yield from is_next(calls.stream, FUNCTION))

    def write(self, grammar: Grammar, functions: Sequence[Function], *, parallel: bool) -> str:
        """See `CallForm.write`."""
        call = grammar.rule(f"{grammar.marker(OPENING)} {self.write_after(grammar, functions, OPENING)}")
        return f'{call} ("\\n" {call})*' if parallel else call

    def write_after(self, grammar: Grammar, functions: Sequence[Function], start: str) -> str:
        """See `CallForm.write_after`."""
        if start == FUNCTION:
            return grammar.choice(function_block(grammar, function, after_opening=True) for function in functions)
        body = grammar.choice(
            function_block(grammar, function) if self.is_xml else call_object(grammar, function, "arguments")
            for function in functions
        )
        return f'"\\n" {body} "\\n" {grammar.marker(CLOSING)}'
