"""An answer as the parts it is made of: reasoning, text and calls, each with a beginning and an end.

Chat completions send an answer's pieces side by side; the newer APIs send parts one after the other. They are told
apart here, once for all of them. Knows nothing of JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from llmapi_kit.types import Delta, TokenLogprob, ToolCallDelta

PartKind = Literal["reasoning", "text", "call"]


@dataclass(slots=True)
class Part:
    """A part of an answer as it comes together.

    Attributes:
        kind: what it is.
        position: which of the answer's parts, from 0.
        call_id: of a call.
        name: of the function that a call calls.
        logprobs: of a text's tokens, where asked for.
        is_open: whether more may come.
    """

    kind: PartKind
    position: int
    call_id: str = ""
    name: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    is_open: bool = True
    _pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The reasoning, the text, or the call's arguments, so far."""
        return "".join(self._pieces)

    def append(self, piece: str) -> None:
        """Add to it."""
        self._pieces.append(piece)


@dataclass(frozen=True, slots=True)
class PartBegan:
    """A part begins; what it holds follows."""

    part: Part


@dataclass(frozen=True, slots=True)
class PartGrew:
    """A piece was added to a part."""

    part: Part
    piece: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class PartEnded:
    """Nothing more comes in a part."""

    part: Part


PartEvent = PartBegan | PartGrew | PartEnded


class PartReader:
    """Tells the parts of one answer from its deltas. One part is open at a time.

    Attributes:
        parts: those that began, in order.
    """

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self._calls: dict[int, Part] = {}

    def read(self, delta: Delta) -> Iterator[PartEvent]:
        """What a delta brings."""
        if delta.reasoning:
            yield from self._grow("reasoning", delta.reasoning)
        if delta.text or (delta.logprobs and not delta.reasoning and not delta.tool_calls):
            yield from self._grow("text", delta.text, delta.logprobs)
        for call in delta.tool_calls:
            yield from self._call(call)

    def end(self) -> Iterator[PartEvent]:
        """The end of the part that is open, if one is."""
        if self.parts and self.parts[-1].is_open:
            self.parts[-1].is_open = False
            yield PartEnded(self.parts[-1])

    def begin(self, kind: PartKind, call_id: str = "", name: str = "") -> Iterator[PartEvent]:
        """The end of the open part, and the beginning of a new one."""
        yield from self.end()
        self.parts.append(Part(kind, len(self.parts), call_id, name))
        yield PartBegan(self.parts[-1])

    def _grow(self, kind: PartKind, piece: str, logprobs: tuple[TokenLogprob, ...] = ()) -> Iterator[PartEvent]:
        if not (self.parts and self.parts[-1].is_open and self.parts[-1].kind == kind):
            yield from self.begin(kind)
        part = self.parts[-1]
        part.append(piece)
        part.logprobs.extend(logprobs)
        yield PartGrew(part, piece, logprobs)

    def _call(self, call: ToolCallDelta) -> Iterator[PartEvent]:
        part = self._calls.get(call.index)
        if part is None:
            yield from self.begin("call", call.id, call.name)
            part = self._calls[call.index] = self.parts[-1]
        if not part.is_open:
            raise RuntimeError(f"a piece of call {call.index} came after its end")
        if call.arguments:
            part.append(call.arguments)
            yield PartGrew(part, call.arguments)
