"""Takes one answer apart while it comes: reasoning first, then text and tool calls.

Knows the order of things and what to do with whitespace between them, not how calls are written. Runs where an
engine's answer is read; linear in the length of the answer, however it is cut into pieces.

- Reasoning stands at the start only: the same marker later is text. Only its closing marker ends it; a tool call
  inside of it is reasoning.
- Whitespace next to reasoning and before a call is framing and is dropped, since templates write it again; so is
  whitespace after the last call. Before text it stays.
- What turns out not to be a call is text, all of it, markers included. Once a call has begun it can't be taken
  back: it keeps its name and the arguments that were written, and what follows and can't belong to it is text.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmapi_kit.dialects.base import Function, Piece, Reasoning
from llmapi_kit.dialects.call_form import CallForm
from llmapi_kit.dialects.calls import Calls
from llmapi_kit.dialects.text_stream import Steps, TextStream, peek, read_literal, read_until, skip_space
from llmapi_kit.dialects.trimmed_text import TrimmedText


class MarkedReply:
    """See `llmapi_kit.dialects.base.ReplyParser`.

    Args:
        calls: how calls are written; None where the answer has none, or where they are to stay text.
        functions: what the request offers, by name.
        reasoning: how reasoning is marked, if it is.
        starts_in_reasoning: the prompt has opened it.
    """

    def __init__(
        self,
        calls: CallForm | None,
        functions: Mapping[str, Function],
        reasoning: Reasoning | None,
        *,
        starts_in_reasoning: bool,
    ) -> None:
        self._form = calls
        self._reasoning = reasoning
        self._stream = TextStream()
        self._text = TrimmedText()
        self._thought = TrimmedText()
        self._calls = Calls(self._stream, functions)
        self._steps = self._read(starts_in_reasoning)

    @property
    def num_calls(self) -> int:
        """Calls begun so far."""
        return self._calls.num_begun

    def feed(self, text: str) -> Piece:
        """See `ReplyParser.feed`."""
        self._stream.feed(text)
        return self._go_on()

    def flush(self) -> Piece:
        """See `ReplyParser.flush`."""
        self._stream.is_ended = True
        return self._go_on()

    def _go_on(self) -> Piece:
        next(self._steps, None)
        return Piece(self._text.take(), self._thought.take(), self._calls.take())

    def _read(self, starts_in_reasoning: bool) -> Steps[None]:
        if self._reasoning is not None:
            yield from self._read_reasoning(self._reasoning, starts_in_reasoning)
        if self._form is None:
            yield from self._read_plain()
        else:
            yield from self._read_answer(self._form)

    def _read_reasoning(self, reasoning: Reasoning, is_open: bool) -> Steps[None]:
        """The reasoning block, if one comes first; a prompt may have opened it, and the model may open it again."""
        space = yield from skip_space(self._stream)
        if not (yield from read_literal(self._stream, reasoning.opening)) and not is_open:
            self._text.add(space)
            return
        yield from skip_space(self._stream)
        if not (yield from read_until(self._stream, (reasoning.closing,), self._thought.add)):
            self._thought.end()
        yield from skip_space(self._stream)

    def _read_plain(self) -> Steps[None]:
        while True:
            self._text.add(self._stream.take(len(self._stream)))
            self._text.end()
            if self._stream.is_ended:
                return
            yield

    def _read_answer(self, form: CallForm) -> Steps[None]:
        if form.is_bare:
            self._text.add((yield from skip_space(self._stream)))
            if (yield from peek(self._stream)) == "{":
                yield from self._read_calls(form, "")
        while start := (yield from read_until(self._stream, form.starts, self._text.add)):
            yield from self._read_calls(form, start)
        self._text.end()

    def _read_calls(self, form: CallForm, start: str) -> Steps[None]:
        """What may be calls: it comes out as calls, as text, or both."""
        num_before = self._calls.num_begun
        record = self._stream.record = [start]
        is_all_calls = yield from form.read(self._calls, start)
        self._stream.record = None
        has_begun = self._calls.num_begun > num_before
        if has_begun:
            self._text.frame()
        is_cut_short = has_begun and self._stream.is_ended and not len(self._stream)
        if not is_all_calls and not is_cut_short:
            self._text.add("".join(record))
