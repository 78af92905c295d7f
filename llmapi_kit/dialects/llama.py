"""Calls as bare JSON, after ``<|python_tag|>`` or nothing at all: Llama 3.1, 3.2 and 3.3.

Where nothing says that an object is a call, it is one only at the very start of an answer and only with a function's
name and arguments; any other object is an answer in JSON.

Source: the chat templates of Llama 3.1 and 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmapi_kit.dialects.base import Function
from llmapi_kit.dialects.calls import Calls
from llmapi_kit.dialects.grammar import Grammar, call_object
from llmapi_kit.dialects.json_calls import CallObject
from llmapi_kit.dialects.text_stream import Steps, peek, skip_space

PYTHON_TAG = "<|python_tag|>"


@dataclass(frozen=True, slots=True)
class LlamaCalls:
    """See `llmapi_kit.dialects.call_form.CallForm`."""

    starts: tuple[str, ...] = (PYTHON_TAG,)
    markers: tuple[str, ...] = (PYTHON_TAG,)
    is_bare: bool = True

    def read(self, calls: Calls, start: str) -> Steps[bool]:
        """See `CallForm.read`."""
        stream = calls.stream
        yield from skip_space(stream)
        if (yield from peek(stream)) != "{":
            return False
        while (yield from CallObject(calls, is_certain=False).read()):
            yield from skip_space(stream)
            if (yield from peek(stream)) != ";":
                return False
            stream.take(1)
            yield from skip_space(stream)
            if (yield from peek(stream)) != "{":
                return False
        return False

    def write(self, grammar: Grammar, functions: Sequence[Function], *, parallel: bool) -> str:
        """See `CallForm.write`."""
        call = grammar.choice(call_object(grammar, function, "parameters") for function in functions)
        return f'{call} ("; " {call})*' if parallel else call

    def write_after(self, grammar: Grammar, functions: Sequence[Function], start: str) -> str:
        """See `CallForm.write_after`."""
        return self.write(grammar, functions, parallel=True)
