"""`dashboard`: opens one in the cell, and the thread that keeps it up to date.

Pages that show it alive are sent a sample a second while they have it in sight; while nobody looks, samples are taken
more rarely and nothing is sent. Where no script runs, the HTML is drawn again now and then while something happens.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from llmapi_kit.errors import ConfigError, ServerError, StoreError
from llmapi_kit.notebook.dashboard.cancel_row import CancelRow
from llmapi_kit.notebook.dashboard.figures import dashboard_html, log_text, totals, usage_text
from llmapi_kit.notebook.dashboard.samples import Sample, Sampler
from llmapi_kit.notebook.live_view import FOLDER, LiveView
from llmapi_kit.notebook.plain_buttons import ABOVE_CLASS, HIDES_DEAD_BUTTONS, needs_plain_buttons
from llmapi_kit.places import is_jupyter_kernel
from llmapi_kit.server.server import Server
from llmapi_kit.vendored import read_vendored

logger = logging.getLogger(__name__)

SAMPLE_EVERY_S = 1.0
HIDDEN_EVERY_S = 5.0
USAGE_EVERY_S = 30.0  # it is read from the database
DRAW_EVERY_S = 3.0  # the HTML, where no script runs
NUM_LOG_LINES = 30
ROOM = FOLDER / "dashboard"

_by_cell: weakref.WeakValueDictionary[str, Dashboard] = weakref.WeakValueDictionary()


def dashboard(server: Server) -> Dashboard:
    """Show what a server of this process does, live, in the cell that runs.

    Curves of the last minutes (tokens a second, running and queued requests, time to the first token, KV memory,
    memory of this process and of the GPU), the running requests with a button to cancel each, the log and the totals.
    It costs little, and next to nothing while it is out of sight. In a plain program it is text, when it is printed.

    Args:
        server: what `kit.launch` returned.

    Raises:
        ConfigError: it is not a server of this process.

    Examples:
        >>> server = kit.launch(kit.load("mock"), port=0)
        >>> dashboard = kit.dashboard(server)
        >>> dashboard.close()
        >>> server.stop()
    """
    if not isinstance(server, Server):
        raise ConfigError(
            f"dashboard({server!r:.80}) has nothing to show: it takes what kit.launch returned, a server of this "
            "process. Of one in another notebook, ask that notebook."
        )
    opened = Dashboard(server)
    opened.show()
    return opened


class Dashboard(threading.Thread):
    """A dashboard in a cell; `kit.dashboard` makes one.

    Args:
        server: not kept alive by this.
    """

    def __init__(self, server: Server) -> None:
        super().__init__(name=f"llmapi_kit dashboard :{server.port}", daemon=True)
        self._server = weakref.ref(server)
        self._sampler = Sampler()
        self._is_closed = threading.Event()
        self._handle: Any = None
        self._drawn_at = 0.0
        self._drawn: object = None
        self._log: list[str] = []
        self._usage = ""
        self._usage_read_at = float("-inf")
        self._view: LiveView | None = None
        self._cancel_row: CancelRow | None = None  # where no script runs
        self._sampler.take(server)

    def show(self) -> None:
        """Show it in the cell that runs; outside of a notebook there is nothing to show it in."""
        if not is_jupyter_kernel() or self._handle is not None:
            return
        from IPython import display as output

        _end_the_one_before(self)
        uplot = read_vendored("uplot/uPlot.iife.min.js")
        self._view = LiveView(
            [uplot, ROOM / "dashboard.js"],
            [FOLDER / "card.css", read_vendored("uplot/uPlot.min.css"), ROOM / "dashboard.css"],
            state=self._state,
            actions={"cancel": self._cancel},
        )
        if needs_plain_buttons(self._view):
            self._cancel_row = CancelRow(self._cancel_request)
        display: Any = output.display  # untyped there
        self._handle = display(self._bundle(), raw=True, display_id=True)
        if self._cancel_row is not None:
            self._cancel_row.show()
        self.start()

    def close(self) -> None:
        """End it; what it showed last stays."""
        self._is_closed.set()
        if self._view is not None:
            self._view.visibility_changed.set()
            if self.is_alive() and threading.current_thread() is not self:
                self.join()
            self._draw()
            self._end(self._view, "The dashboard was closed.")

    def run(self) -> None:
        """Keep it up to date, until it is closed or the server is gone."""
        view = self._view
        if view is None:
            return
        while not self._is_closed.is_set():
            view.visibility_changed.wait(SAMPLE_EVERY_S if view.is_visible else HIDDEN_EVERY_S)
            server = self._server()
            if self._is_closed.is_set():
                return
            if server is None:
                self._end(view, "The server was stopped, and nothing holds it any more.")
                return
            try:
                self._look(server, view)
            except Exception:  # the kernel is going down, and its sockets are closed
                logger.debug("A dashboard could not be drawn", exc_info=True)
                return
            del server  # or this frame keeps it alive during the wait

    def _end(self, view: LiveView, text: str) -> None:
        view.close(text)
        if self._cancel_row is not None:
            self._cancel_row.close()

    def _look(self, server: Server, view: LiveView) -> None:
        was_hidden = view.visibility_changed.is_set()
        view.visibility_changed.clear()
        sample = self._sampler.take(server)
        if not view.is_heard:
            self._draw_now_and_then(sample)
            if self._cancel_row is not None:
                self._cancel_row.update(server.requests())
        elif was_hidden:
            view.send_state()  # with what happened meanwhile
        elif view.is_visible:
            message = {"kind": "sample", "sample": asdict(sample), **self._now(server, sample)}
            log = self._log_lines(server)
            if log != self._log:
                self._log = message["log"] = log
            view.send(message)

    def _draw_now_and_then(self, sample: Sample) -> None:
        """Draw the HTML again, if something has happened since, and not too often."""
        seen = (sample.num_completion_tokens, sample.num_running, sample.num_queued, sample.num_failed)
        if seen != self._drawn and time.monotonic() - self._drawn_at >= DRAW_EVERY_S:
            self._drawn, self._drawn_at = seen, time.monotonic()
            self._draw()

    def _draw(self) -> None:
        if self._handle is not None:
            self._handle.update(self._bundle(), raw=True)

    def _bundle(self) -> dict[str, Any]:
        server, samples = self._server(), list(self._sampler.samples)
        requests = [] if server is None else server.requests()
        log = [] if server is None else self._log_lines(server)
        place = self._view.place if self._view else ""
        if self._cancel_row is not None:
            place += f" {ABOVE_CLASS}"
        html = dashboard_html(samples, requests, log, name=_name(server), place=place)
        html = html if self._cancel_row is None else HIDES_DEAD_BUTTONS + html
        return self._view.bundle(repr(self), html) if self._view else {"text/plain": repr(self), "text/html": html}

    def _state(self) -> dict[str, Any]:
        """All that a page has to know which has just come to see it."""
        server = self._server()
        samples = list(self._sampler.samples)
        if server is None:
            return {"samples": [asdict(each) for each in samples], "name": "", "isRunning": False, "requests": []}
        self._log = self._log_lines(server)
        now = self._now(server, samples[-1])
        return {"samples": [asdict(each) for each in samples], "name": _name(server), "log": self._log, **now}

    def _now(self, server: Server, sample: Sample) -> dict[str, Any]:
        requests = [asdict(each) for each in server.requests()]
        return {
            "isRunning": server.is_running,
            "requests": requests,
            "totals": f"Since the models were loaded: {totals(sample)}",
            "usage": self._read_usage(server),
        }

    def _read_usage(self, server: Server) -> str:
        """What the key used today, in words; not asked for again and again."""
        if server.is_running and time.monotonic() - self._usage_read_at >= USAGE_EVERY_S:
            self._usage_read_at = time.monotonic()
            try:
                self._usage = usage_text(server.usage(days=1))
            except StoreError as exc:
                self._usage = f"What this key used today is not known: {exc}"
        return self._usage

    def _log_lines(self, server: Server) -> list[str]:
        return [log_text(line) for line in server.logs(NUM_LOG_LINES)]

    def _cancel(self, message: Mapping[str, Any]) -> None:
        self._cancel_request(str(message.get("id")))

    def _cancel_request(self, request_id: str) -> None:
        server = self._server()
        if server is None or not server.cancel(request_id):
            raise ServerError("This request has ended already.")

    def __repr__(self) -> str:
        return f"Dashboard of {_name(self._server())}: {totals(self._sampler.samples[-1])}"

    def _ipython_display_(self) -> None:
        """It is in its cell already, or in none."""
        self.show()


def _end_the_one_before(board: Dashboard) -> None:
    """A cell that is run again has lost what it showed; the dashboard that was there would be kept up for nobody."""
    shell = sys.modules["IPython"].get_ipython()
    try:
        cell = shell.kernel.get_parent("shell")["metadata"]["cellId"]  # JupyterLab, Notebook 7 and VS Code name it
    except (AttributeError, KeyError, TypeError):
        return
    before = _by_cell.get(cell)
    _by_cell[cell] = board
    if before is not None:
        before.close()


def _name(server: Server | None) -> str:
    return "a server that is gone" if server is None else f"{', '.join(server.models)} at {server.url}"
