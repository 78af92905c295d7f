"""Reads answers in their model's dialect: what is text, what is reasoning, what is a tool call.

Sits between the batching loop's events and the engine's consumer, on the consumer's event loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from llmapi_kit.dialects import Piece, ReplyParser
from llmapi_kit.types import Delta, Event, Finished


class ReplyReader:
    """Turns the events of one request into those its consumer gets.

    Args:
        parsers: one an answer.
        is_parallel: whether an answer may call several tools; otherwise it ends where a second call begins.
    """

    def __init__(self, parsers: Sequence[ReplyParser], *, is_parallel: bool = True) -> None:
        self._parsers = parsers
        self._is_parallel = is_parallel
        self._num_made = [0] * len(parsers)
        self._ended: set[int] = set()

    def read(self, event: Event) -> Iterator[Event]:
        """What the consumer gets for an event. A `Finished` for a `Delta` means: this answer needs no more."""
        if not isinstance(event, Delta | Finished):
            yield event
        elif event.index not in self._ended:
            yield from self._delta(event) if isinstance(event, Delta) else self._finished(event)

    def _delta(self, event: Delta) -> Iterator[Event]:
        self._num_made[event.index] += event.num_tokens
        piece = self._parsers[event.index].feed(event.text)
        first = self._first_call_only(piece)
        yield replace(event, text=first.text, reasoning=first.reasoning, tool_calls=first.tool_calls)
        if first is not piece:
            yield self._end(Finished("tool_calls", 0, self._num_made[event.index], 0, event.index))

    def _finished(self, event: Finished) -> Iterator[Event]:
        parser = self._parsers[event.index]
        piece = self._first_call_only(parser.flush())
        if piece.text or piece.reasoning or piece.tool_calls:
            yield Delta(piece.text, 0, (), event.index, piece.reasoning, piece.tool_calls)
        if parser.num_calls and event.reason == "stop":
            event = replace(event, reason="tool_calls")
        yield self._end(event)

    def _first_call_only(self, piece: Piece) -> Piece:
        if self._is_parallel or all(call.index == 0 for call in piece.tool_calls):
            return piece
        return replace(piece, text="", tool_calls=tuple(call for call in piece.tool_calls if call.index == 0))

    def _end(self, event: Finished) -> Finished:
        self._ended.add(event.index)
        return event
