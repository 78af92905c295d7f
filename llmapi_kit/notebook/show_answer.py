"""A question and its answer in a cell's output, growing while the answer arrives.

Knows nothing of models or clients: takes text, or pieces of text. The output's metadata carries both texts under
`METADATA_KEY`, so that a program which ran the notebook reads them without parsing what people see. Runs in the
cell's own thread; the notebooks call it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from html import escape
from typing import Any

from llmapi_kit.notebook.environment import is_jupyter_kernel

METADATA_KEY = "llmapi_kit"
REDRAW_EVERY_S = 0.05  # front-ends lose messages when flooded; twenty a second look smooth


def show_answer(question: str, answer: str | Iterable[str | None]) -> str:
    """Show a question and its answer; returns the whole answer.

    Args:
        question: what was asked.
        answer: the text, or its pieces as they arrive; a piece of None is skipped.
    """
    pieces = [answer] if isinstance(answer, str) else answer
    return _show_in_cell(question, pieces) if is_jupyter_kernel() else _print(question, pieces)


def read_exchanges(outputs: Iterable[Any]) -> list[tuple[str, str]]:
    """The questions and answers in a cell's saved outputs (nbformat)."""
    found = [output.get("metadata", {}).get(METADATA_KEY, {}) for output in outputs]
    return [(each["question"], each["answer"]) for each in found if {"question", "answer"} <= set(each)]


def _show_in_cell(question: str, pieces: Iterable[str | None]) -> str:
    from IPython import display as output

    display: Any = output.display  # untyped there
    answer, drawn_at = "", time.monotonic()
    handle = display(*_drawing(question, answer), display_id=True, raw=True, metadata=_metadata(question, answer))
    try:
        for piece in pieces:
            answer += piece or ""
            if time.monotonic() - drawn_at >= REDRAW_EVERY_S:
                drawn_at = time.monotonic()
                handle.update(*_drawing(question, answer), raw=True, metadata=_metadata(question, answer))
    finally:  # also when the stream breaks or the cell is interrupted: what came stays
        handle.update(*_drawing(question, answer), raw=True, metadata=_metadata(question, answer))
    return answer


def _metadata(question: str, answer: str) -> dict[str, Any]:
    return {METADATA_KEY: {"question": question, "answer": answer}}


def _drawing(question: str, answer: str) -> list[dict[str, str]]:
    # In lines of their own: a click on one line selects no other, and screen readers say who speaks.
    style = "white-space:pre-wrap;overflow-wrap:anywhere;max-width:60rem;padding:2px 0 2px 10px"
    asked = f"{style};margin:6px 0 0;border-left:3px solid rgba(128,128,128,.45);font-weight:600"
    answered = f"{style};margin:0 0 6px;border-left:3px solid var(--jp-brand-color1, #2196f3)"
    html = f'<div style="{asked}">{escape(question)}</div><div style="{answered}">{escape(answer)}</div>'
    return [{"text/plain": f"> {question}\n{answer}", "text/html": html}]


def _print(question: str, pieces: Iterable[str | None]) -> str:
    answer = ""
    sys.stdout.write(f"> {question}\n")
    for piece in pieces:
        answer += piece or ""
        sys.stdout.write(piece or "")
        sys.stdout.flush()
    sys.stdout.write("\n")
    return answer
