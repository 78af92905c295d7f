"""The calls of one reply while they are read: their ids and numbers, and what of them is certain.

Knows no format. The reader of a format says when a call begins and what to add to its arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from llmapi_kit.dialects.base import Function
from llmapi_kit.dialects.text_stream import TextStream
from llmapi_kit.ids import random_hex
from llmapi_kit.types import ToolCallDelta


class Calls:
    """What a call's reader works with.

    Attributes:
        stream: where the reply's text comes from.
        functions: what the request offers, by name.
        num_begun: calls so far.
    """

    def __init__(self, stream: TextStream, functions: Mapping[str, Function]) -> None:
        self.stream = stream
        self.functions = functions
        self.num_begun = 0
        self._deltas: list[ToolCallDelta] = []

    def begin(self, name: str) -> None:
        """A call of this function begins, whether it is offered or not."""
        self._put(ToolCallDelta(self.num_begun, id=f"call_{random_hex(24)}", name=name))
        self.num_begun += 1

    def add(self, arguments: str) -> None:
        """More of the current call's arguments."""
        if arguments:
            self._put(ToolCallDelta(self.num_begun - 1, arguments=arguments))

    def take(self) -> tuple[ToolCallDelta, ...]:
        """What is new since the last time, one delta for each call."""
        merged: dict[int, tuple[ToolCallDelta, list[str]]] = {}
        for delta in self._deltas:
            merged.setdefault(delta.index, (delta, []))[1].append(delta.arguments)
        self._deltas.clear()
        return tuple(replace(first, arguments="".join(parts)) for first, parts in merged.values())

    def keep(self) -> None:
        """What was read up to here belongs to calls, so it will not come out as text."""
        if self.stream.record is not None:
            self.stream.record.clear()

    def _put(self, delta: ToolCallDelta) -> None:
        self._deltas.append(delta)
        self.keep()
