"""Steps of loading in a cell: one output that changes while the work goes on, and makes way for its result.

Runs in the cell's own thread; reports may come from others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from html import escape
from typing import Any, TypeVar

from llmapi_kit.presenter import Presenter
from llmapi_kit.progress import Progress, reporting

R = TypeVar("R")

REDRAW_EVERY_S = 0.1  # front-ends lose messages when flooded


class NotebookPresenter(Presenter):
    """Shows steps in the cell, and the card of what was launched in their place."""

    def load(self, work: Callable[[], R]) -> R:
        """Do the work, and show its progress."""
        if not _is_in_cell():
            return super().load(work)
        display = StepsDisplay()
        with display, reporting(display):
            result = work()
        display.finish()
        return result

    def launch(self, work: Callable[[], R]) -> R:
        """Do the work, show its progress, and then the server's card."""
        if not _is_in_cell():
            return super().load(work)
        from llmapi_kit.notebook.live_card import show
        from llmapi_kit.server.server import Server

        display = StepsDisplay()
        with display, reporting(display):
            result = work()
        if isinstance(result, Server):
            show(result, display.handle)
        return result


class StepsDisplay:
    """What is being done, and what was done and in what time.

    Attributes:
        handle: of its display; None as long as nothing is shown.
    """

    def __init__(self) -> None:
        self.handle: Any = None
        self._started_at = time.monotonic()
        self._steps: list[tuple[str, float]] = []  # each with when it began
        self._progress: Progress | None = None
        self._drawn_at = 0.0
        self._is_over = False
        self._lock = threading.Lock()

    def __enter__(self) -> StepsDisplay:
        """Show steps until the end of the block; if it raises, the one at which it did stays."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        with self._lock:
            self._is_over = True
            if error is not None and self.handle is not None and self._progress is not None:
                self._show(f"Stopped at: {self._progress.step}", None)

    def __call__(self, progress: Progress) -> None:
        """Take a report."""
        with self._lock:
            if self._is_over:
                return
            now = time.monotonic()
            is_new = self._progress is None or progress.step != self._progress.step
            self._progress = progress
            if is_new:
                self._steps.append((progress.step, now))
            if is_new or now - self._drawn_at >= REDRAW_EVERY_S:
                self._drawn_at = now
                self._show(f"{_sentence(progress.step)} …{_amount(progress)}", progress.fraction)

    def finish(self) -> None:
        """Say how long it took, where anything was shown."""
        now = time.monotonic()
        if self.handle is None:
            return
        ends = [began for _, began in self._steps[1:]] + [now]
        times = [f"{step} {end - began:.1f} s" for (step, began), end in zip(self._steps, ends, strict=True)]
        self._show(f"Ready after {now - self._started_at:.1f} s ({', '.join(times)})", None)

    def _show(self, text: str, fraction: float | None) -> None:
        from IPython import display as output

        bundle = {"text/plain": text, "text/html": _html(text, fraction)}
        display: Any = output.display  # untyped there
        if self.handle is None:
            self.handle = display(bundle, raw=True, display_id=True)
        else:
            self.handle.update(bundle, raw=True)


def _is_in_cell() -> bool:
    """Whether a cell works; what other threads show would land in whichever cell runs."""
    return threading.current_thread() is threading.main_thread()


def _sentence(step: str) -> str:
    return step[:1].upper() + step[1:]


def _amount(progress: Progress) -> str:
    """How far it is, in words."""
    if progress.done is None:
        return ""
    if progress.unit == "B":
        total = f" of {progress.total / 1e9:.2f}" if progress.total else ""
        return f" {progress.done / 1e9:.2f}{total} GB"
    return f" {progress.done:,.0f}{f' of {progress.total:,.0f}' if progress.total else ''} {progress.unit}".rstrip()


def _html(text: str, fraction: float | None) -> str:
    font = "font-family:var(--jp-ui-font-family, system-ui, sans-serif);font-size:13px;line-height:1.6"
    bar = ""
    if fraction is not None:
        track = "height:6px;max-width:24rem;border-radius:3px;background:rgba(128,128,128,.25)"
        fill = f"height:6px;border-radius:3px;width:{fraction:.1%};background:var(--jp-brand-color1, #2196f3)"
        bar = f'<div style="{track}"><div style="{fill}"></div></div>'
    return f'<div style="{font}">{escape(text)}{bar}</div>'
