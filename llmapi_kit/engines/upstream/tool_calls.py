"""From an upstream's pieces of tool calls to ours, which have an index each, an id and a name once, and JSON arguments.

Providers number calls from 0, from 1, all alike or not at all, repeat ids and names on each piece or leave them out,
and give arguments as a text or as an object.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmapi_kit.engines.upstream.fields import MalformedError, mapping, position, sequence, text, whole_characters
from llmapi_kit.types import ToolCallDelta


@dataclass(slots=True)
class _Call:
    """A call, as far as it came.

    Attributes:
        id: the upstream's, if it gave one of its own.
        name: of the function; empty while it has not come.
        index: ours; -1 while nothing of the call was passed on, for want of a name.
        arguments: all that came.
    """

    id: str = ""
    name: str = ""
    arguments: str = ""
    index: int = -1

    @property
    def is_whole(self) -> bool:
        """Whether its arguments are complete."""
        if not self.arguments.rstrip().endswith("}"):
            return False
        try:
            json.loads(self.arguments)
        except ValueError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class _Piece:
    """What an upstream sent of a call; what it left out is empty."""

    index: int | None
    id: str
    name: str
    arguments: str

    def begins_another(self, call: _Call) -> bool:
        """Whether this is no more of that call, though its index or id says so."""
        if not self.name or not call.name:
            return False
        if self.name != call.name:
            return True
        if call.is_whole:
            return self.arguments != call.arguments or self._has_other_id(call)
        return self._has_other_id(call) and not call.arguments

    def _has_other_id(self, call: _Call) -> bool:
        return bool(self.id and call.id) and self.id != call.id


class ToolCallReader:
    """Reads the tool calls of one answer."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}

    @property
    def num_calls(self) -> int:
        """Calls that have begun."""
        return sum(call.index >= 0 for call in self._calls)

    def read(self, message: Mapping[str, Any]) -> Iterator[ToolCallDelta]:
        """The calls in a piece of a message, or in a whole one.

        Raises:
            MalformedError: they can't be read as calls.
        """
        given = message.get("tool_calls")
        entries = [given] if isinstance(given, Mapping) else list(sequence(given, "tool_calls"))
        if not entries and isinstance(message.get("function_call"), Mapping):  # what there was before tool_calls
            entries = [{"function": message["function_call"]}]
        touched: list[_Call] = []
        for place, entry in enumerate(entries):
            piece = _piece(mapping(entry, "a tool call"))
            call = self._call_of(piece, place, touched)
            touched.append(call)
            yield from self._take(call, piece)

    def finish(self) -> Iterator[ToolCallDelta]:
        """What is missing when the answer ends: a call without arguments has an empty object.

        Raises:
            MalformedError: a call never got a name.
        """
        for call in self._calls:
            if not call.name:
                raise MalformedError("a tool call has no name")
            if not call.arguments.strip():
                call.arguments = "{}"
                yield ToolCallDelta(call.index, arguments="{}")

    def _call_of(self, piece: _Piece, place: int, touched: list[_Call]) -> _Call:
        """The call a piece belongs to, begun if it is a new one."""
        known = self._known(piece, place, touched)
        if known is not None and not piece.begins_another(known):
            return known
        if not (piece.name or piece.id):
            raise MalformedError("a tool call has no name")
        taken = {call.id for call in self._calls}
        call = _Call("" if piece.id in taken else piece.id)
        self._calls.append(call)
        if piece.index is not None:
            self._by_index[piece.index] = call
        return call

    def _known(self, piece: _Piece, place: int, touched: list[_Call]) -> _Call | None:
        by_id = next((call for call in self._calls if piece.id and call.id == piece.id), None)
        if piece.index is not None:
            by_index = self._by_index.get(piece.index)
            if by_index is None:
                return None if piece.name else by_id
            # Where all calls have one index, the id tells them apart; where all have one id, the index does
            return by_index if by_id is None or not by_index.id else by_id
        if by_id is not None:
            return by_id
        if piece.id and piece.name:
            return None
        if not piece.name and touched and place < len(self._calls):
            return self._calls[place]
        last = self._calls[-1] if self._calls else None
        return None if last in touched else last

    def _take(self, call: _Call, piece: _Piece) -> Iterator[ToolCallDelta]:
        if piece.arguments and piece.arguments == call.arguments and call.is_whole:
            return  # the call once more, at the end of a stream
        call.arguments += piece.arguments
        if call.name:
            if piece.arguments:
                yield ToolCallDelta(call.index, arguments=piece.arguments)
        elif piece.name:
            call.name, call.index = piece.name, self.num_calls
            yield ToolCallDelta(call.index, call.id or f"call_{call.index}", call.name, call.arguments)


def _piece(entry: Mapping[str, Any]) -> _Piece:
    function = entry.get("function")
    function = entry if function is None else mapping(function, "a function")
    call_id = entry.get("id")
    return _Piece(
        position(entry, None),
        whole_characters(str(call_id) if isinstance(call_id, int) else text(entry, "id")),
        whole_characters(text(function, "name")),
        whole_characters(_arguments(function)),
    )


def _arguments(function: Mapping[str, Any]) -> str:
    """As a text. An empty object says as little as none: some send it first, and then the arguments."""
    value = function.get("arguments")
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False) if value else ""
    return text(function, "arguments")
