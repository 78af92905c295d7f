"""Progress of long work: whoever works says what it does, whoever started it shows that.

`report` does nothing unless somebody up the call wants to know, so that any room may call it. What is shown, and
where, is the business of the callback. Threads do not inherit the listener: hand `current()` to them, or run them in
`contextvars.copy_context()`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """What is being done.

    Attributes:
        step: such as "reading weights".
        done: how much of it is, in `unit`; None where it can't be told.
        total: how much there is.
        unit: such as "B" for bytes; empty for a number of things.
    """

    step: str
    done: float | None = None
    total: float | None = None
    unit: str = ""

    @property
    def fraction(self) -> float | None:
        """The share that is done, 0 to 1; None where it can't be told."""
        if self.done is None or not self.total:
            return None
        return min(1.0, max(0.0, self.done / self.total))


class Reporter:
    """Hands progress to a callback, from any thread, one call at a time.

    Args:
        callback: gets each report; what it raises is logged, as work does not fail because its progress can't be shown.

    Attributes:
        last: what was reported last; None before anything was.
    """

    def __init__(self, callback: Callable[[Progress], None]) -> None:
        self.last: Progress | None = None
        self._callback = callback
        self._lock = threading.RLock()  # a callback may report

    def report(self, step: str, *, done: float | None = None, total: float | None = None, unit: str = "") -> None:
        """Say what is being done; see `Progress`."""
        progress = Progress(step, done, total, unit)
        with self._lock:
            self.last = progress
            try:
                self._callback(progress)
            except Exception:
                logger.debug("Progress could not be shown: %s", progress, exc_info=True)


_reporter: ContextVar[Reporter | None] = ContextVar("llmapi_kit_reporter", default=None)


def current() -> Reporter | None:
    """Who listens here; None for nobody. Other threads may use it."""
    return _reporter.get()


def report(step: str, *, done: float | None = None, total: float | None = None, unit: str = "") -> None:
    """Say what is being done to whoever listens; see `Progress`."""
    reporter = _reporter.get()
    if reporter is not None:
        reporter.report(step, done=done, total=total, unit=unit)


@contextmanager
def reporting(callback: Callable[[Progress], None]) -> Iterator[Reporter]:
    """Have a callback listen to what is reported inside the block, in place of an outer one.

    Examples:
        >>> with reporting(lambda progress: print(progress.step)) as reporter:
        ...     report("reading weights", done=1, total=2)
        reading weights
        >>> reporter.last.fraction
        0.5
    """
    reporter = Reporter(callback)
    token = _reporter.set(reporter)
    try:
        yield reporter
    finally:
        _reporter.reset(token)
