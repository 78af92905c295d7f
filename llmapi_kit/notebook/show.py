"""`show`: an answer in a cell's output as Markdown, growing while it arrives.

Takes what clients and models give: text, pieces of text, a completion of the openai library or a stream of one. What a
model writes can't bring markup, script or pictures from elsewhere into the notebook. The output's metadata carries both
texts under `METADATA_KEY`, so that a program which ran the notebook reads them without parsing what people see. Runs in
the cell's own thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING, Any

from llmapi_kit.places import is_jupyter_kernel

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

METADATA_KEY = "llmapi_kit"
REDRAW_EVERY_S = 0.05  # front-ends lose messages when flooded; twenty a second look smooth


class Shown(str):
    """An answer that is on the screen already: as the last value of a cell it is not shown once more."""

    def _ipython_display_(self) -> None:
        """Show nothing."""


def show(answer: Any, question: str = "") -> Shown:
    """Show an answer, while it arrives where it is a stream, and return it as text.

    Args:
        answer: text; pieces of text, such as `Model.stream` gives; a completion of the openai library, for a chat or
            not; or a stream of one.
        question: what was asked, to be shown above it.

    Examples:
        >>> model = kit.load("mock")
        >>> _ = kit.show(model.stream("Hello there!"))
        Hello there!
    """
    pieces = _pieces(answer)
    return Shown(_show_in_cell(question, pieces) if is_jupyter_kernel() else _print(question, pieces))


def read_exchanges(outputs: Iterable[Any]) -> list[tuple[str, str]]:
    """The questions and answers in a cell's saved outputs (nbformat)."""
    found = [output.get("metadata", {}).get(METADATA_KEY, {}) for output in outputs]
    return [(each["question"], each["answer"]) for each in found if {"question", "answer"} <= set(each)]


def _pieces(answer: Any) -> Iterator[str]:
    """The text of an answer, piece by piece."""
    if answer is None or isinstance(answer, str) or hasattr(answer, "choices"):
        yield _text(answer)
    else:
        for piece in answer:
            yield _text(piece)


def _text(piece: Any) -> str:
    """The text of a piece, or of a whole completion; empty where it has none, such as a call of a tool."""
    if piece is None or isinstance(piece, str):
        return piece or ""
    if not hasattr(piece, "choices"):
        return str(piece)
    if not piece.choices:
        return ""
    choice = piece.choices[0]
    holder = getattr(choice, "delta", None) or getattr(choice, "message", None)
    return (getattr(holder, "content", None) if holder is not None else getattr(choice, "text", None)) or ""


def _show_in_cell(question: str, pieces: Iterable[str]) -> str:
    from IPython import display as output

    display: Any = output.display  # untyped there
    answer, drawn_at = "", time.monotonic()
    handle = display(_drawing(question, answer), display_id=True, raw=True, metadata=_metadata(question, answer))
    try:
        for piece in pieces:
            answer += piece
            if time.monotonic() - drawn_at >= REDRAW_EVERY_S:
                drawn_at = time.monotonic()
                handle.update(_drawing(question, answer), raw=True, metadata=_metadata(question, answer))
    finally:  # also when the stream breaks or the cell is interrupted: what came stays
        handle.update(_drawing(question, answer), raw=True, metadata=_metadata(question, answer))
    return answer


def _metadata(question: str, answer: str) -> dict[str, Any]:
    return {METADATA_KEY: {"question": question, "answer": answer}}


def _drawing(question: str, answer: str) -> dict[str, str]:
    # In lines of their own: a click on one line selects no other, and screen readers say who speaks.
    style = "overflow-wrap:anywhere;max-width:60rem;padding:2px 0 2px 10px"
    asked = f"{style};white-space:pre-wrap;margin:6px 0 0;border-left:3px solid rgba(128,128,128,.45);font-weight:600"
    answered = f"{style};margin:0 0 6px;border-left:3px solid var(--jp-brand-color1, #2196f3)"
    above = f'<div style="{asked}">{escape(question)}</div>' if question else ""
    html = f'{above}<div style="{answered}">{_markdown().render(answer)}</div>'
    plain = f"> {question}\n{answer}" if question else answer
    return {"text/plain": plain, "text/html": html}


@lru_cache(maxsize=1)
def _markdown() -> MarkdownIt:
    """A renderer that takes nothing but Markdown: HTML stays text, and a picture would tell its host who reads."""
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"]).disable("image")


def _print(question: str, pieces: Iterable[str]) -> str:
    answer = ""
    if question:
        sys.stdout.write(f"> {question}\n")
    for piece in pieces:
        answer += piece
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return answer
