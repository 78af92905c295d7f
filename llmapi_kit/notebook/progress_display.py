"""Shows progress of long work where somebody waits for it: bars in a cell, a line in a terminal, plain lines in a log.

`ProgressDisplay` listens to `llmapi_kit.progress` inside its block. What it shows is drawn by a thread of its own, so
that it also moves while the cell's own thread imports or waits. Work that is over quickly shows nothing.
"""

from __future__ import annotations

import contextlib
import contextvars
import io
import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO, TypeVar

from llmapi_kit.notebook.progress_state import ProgressState, as_html, as_line
from llmapi_kit.places import is_jupyter_kernel
from llmapi_kit.presenter import Presenter
from llmapi_kit.progress import Progress, reporting

R = TypeVar("R")

SHOW_AFTER_S = 0.7
DRAW_EVERY_S = 0.25
LINE_EVERY_S = 10.0


class Screen(Protocol):
    """Where progress is drawn."""

    def draw(self, state: ProgressState) -> None:
        """Show how things are, in place of what was shown before."""
        ...

    def end(self, state: ProgressState) -> None:
        """Show how it ended; nothing comes after that."""
        ...


class ProgressDisplay:
    """Shows what is reported inside its block.

    Args:
        title: what is being done, such as "Loading pocket"; the first step unless given.
        screen: where; the cell or the terminal that this runs in unless given.
        show_after_s: work that is over sooner shows nothing.

    Examples:
        >>> with ProgressDisplay("Loading pocket"):
        ...     model = kit.load("pocket")
    """

    def __init__(self, title: str = "", screen: Screen | None = None, show_after_s: float = SHOW_AFTER_S) -> None:
        self._state = ProgressState(title)
        self._screen = screen or (CellScreen() if is_jupyter_kernel() else terminal_screen())
        self._show_after_s = show_after_s
        self._is_over = threading.Event()
        self._is_shown = False
        self._stack = contextlib.ExitStack()
        self._thread = threading.Thread(target=lambda: None)

    def __enter__(self) -> ProgressDisplay:
        self._stack.enter_context(reporting(self.show))
        context = contextvars.copy_context()  # says which cell an output belongs to
        self._thread = threading.Thread(target=context.run, args=(self._draw,), name="llmapi_kit progress", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._stack.close()
        self._is_over.set()
        self._thread.join()
        self._state.end(error)
        if self._is_shown:
            self._screen.end(self._state)

    def show(self, progress: Progress) -> None:
        """Take note of a report; any thread may call it."""
        self._state.note(progress)

    def _draw(self) -> None:
        if self._is_over.wait(self._show_after_s):
            return
        while True:
            if self._state.step:
                self._is_shown = True
                with contextlib.suppress(Exception):  # the front end went away; the work goes on
                    self._screen.draw(self._state)
            if self._is_over.wait(DRAW_EVERY_S):
                return


class NotebookPresenter(Presenter):
    """Shows progress in the cell, and the card of what was launched in its place.

    Args:
        shows_progress: if not, progress goes to the log only.
    """

    def __init__(self, *, shows_progress: bool = True) -> None:
        self._shows_progress = shows_progress

    def load(self, work: Callable[[], R]) -> R:
        """Do the work, and show its progress."""
        if not self._shows_progress or not _is_in_cell():
            return super().load(work)
        with ProgressDisplay(screen=CellScreen()):
            return work()

    def launch(self, work: Callable[[], R]) -> R:
        """Do the work, show its progress, and then the server's card."""
        if not _is_in_cell():
            return super().load(work)
        from llmapi_kit.notebook.live_card import show
        from llmapi_kit.server.server import Server

        screen = CellScreen()
        with ProgressDisplay(screen=screen) if self._shows_progress else contextlib.nullcontext():
            result = work()
        if isinstance(result, Server):
            show(result, screen.handle)
        return result


class TerminalPresenter(Presenter):
    """Shows progress on standard error."""

    def load(self, work: Callable[[], R]) -> R:
        """Do the work, and show its progress."""
        with ProgressDisplay(screen=terminal_screen()):
            return work()


def _is_in_cell() -> bool:
    """Whether a cell works; what other threads show would land in whichever cell runs."""
    return threading.current_thread() is threading.main_thread()


class CellScreen:
    """An output of the cell that is replaced as things go on, and stays readable in a saved notebook.

    Attributes:
        handle: of the output; None as long as nothing is shown.
    """

    def __init__(self) -> None:
        self.handle: Any = None
        self._drawn = ""

    def draw(self, state: ProgressState) -> None:
        """See `Screen.draw`."""
        html = as_html(state)
        if html == self._drawn:
            return
        self._drawn = html
        bundle = {"text/html": html, "text/plain": as_line(state)}
        if self.handle is None:
            from IPython import display as output

            display: Any = output.display
            self.handle = display(bundle, raw=True, display_id=True)
        else:
            self.handle.update(bundle, raw=True)

    end = draw


class LineScreen:
    """One line of a terminal, redrawn.

    Args:
        stream: the terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._num_chars = 0

    def draw(self, state: ProgressState) -> None:
        """See `Screen.draw`."""
        line = as_line(state)[: shutil.get_terminal_size().columns - 1]
        self._stream.write("\r" + line.ljust(self._num_chars))
        self._stream.flush()
        self._num_chars = len(line)

    def end(self, state: ProgressState) -> None:
        """See `Screen.end`."""
        self.draw(state)
        self._stream.write("\n")
        self._stream.flush()


class LogScreen:
    """Plain lines, for what is not a terminal: one for each new step, and one now and then while it lasts.

    Args:
        stream: the file or pipe.
        clock: tells the time, in seconds.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._step = ""
        self._written_at = 0.0

    def draw(self, state: ProgressState) -> None:
        """See `Screen.draw`."""
        now = self._clock()
        step = state.step + state.note_text.partition(" for ")[0]
        if step != self._step or now - self._written_at >= LINE_EVERY_S:
            self._step, self._written_at = step, now
            self._write(state)

    def end(self, state: ProgressState) -> None:
        """See `Screen.end`."""
        self._write(state)

    def _write(self, state: ProgressState) -> None:
        self._stream.write(as_line(state) + "\n")
        self._stream.flush()


def terminal_screen(stream: TextIO | None = None) -> Screen:
    """A line that is redrawn in a terminal, plain lines elsewhere; on standard error, as it is not a result."""
    stream = stream or sys.stderr or io.StringIO()  # there is none behind a window
    return LineScreen(stream) if stream.isatty() else LogScreen(stream)
