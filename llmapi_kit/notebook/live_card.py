"""A card that stays true: shown for a `Server`, and told to the pages that show it when something changes.

Also in the middle of another cell: one thread for each server that is shown looks once a second, for as long as there
is the server. Called by `llmapi_kit.notebook.display`, in the kernel's main thread.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any

from llmapi_kit.errors import ServerError
from llmapi_kit.notebook.card import card_html, card_state, live_state
from llmapi_kit.notebook.live_view import FOLDER, LiveView
from llmapi_kit.notebook.plain_buttons import ABOVE_CLASS, HIDES_DEAD_BUTTONS, PlainButtons, needs_plain_buttons
from llmapi_kit.server.server import Server

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
MAX_HANDLES = 8  # of one card; cells that are run again leave handles without a place behind

_cards: weakref.WeakKeyDictionary[Server, LiveCard] = weakref.WeakKeyDictionary()


def show(server: Server, handle: Any = None) -> None:
    """Show a server's card: once in a cell, so that one which ends with the server's name has it once.

    Args:
        server: whose card.
        handle: of a display to take the place of; None for a new one in the cell that runs.
    """
    card = _cards.get(server)
    if card is None:
        card = _cards[server] = LiveCard(server)
        card.start()
    card.show(handle)


class LiveCard(threading.Thread):
    """A server's card, in as many cells as show it.

    Args:
        server: not kept alive by this.
    """

    def __init__(self, server: Server) -> None:
        super().__init__(name=f"llmapi_kit card :{server.port}", daemon=True)
        self._server = weakref.ref(server)
        self._state = card_state(server)
        self._speed = ""
        self._num_tokens: tuple[float, float] | None = None
        self._handles: list[Any] = []
        self._shown_in: object = None
        self._lock = threading.Lock()
        self._pause = threading.Event()
        self.view = LiveView(
            [FOLDER / "card.js"],
            [FOLDER / "card.css"],
            state=lambda: live_state(self._state, self._speed),
            actions={"key": self._key, "stop": self._stop, "restart": self._restart},
        )
        self._buttons = self._make_buttons() if needs_plain_buttons(self.view) else None

    def show(self, handle: Any = None) -> None:
        """Show it in the cell that runs, unless that shows it already; or in place of a display."""
        from IPython import display as output

        cell = _running_cell()
        if handle is None and cell is not None and cell == self._shown_in:
            return
        self._shown_in = cell
        server = self._server()
        if server is not None:
            self._state = card_state(server)  # a launch may have changed it since the last look
        display: Any = output.display  # untyped there
        bundle = self._bundle()
        if handle is None:
            handle = display(bundle, raw=True, display_id=True)
        else:
            handle.update(bundle, raw=True)
        if self._buttons is not None:
            self._buttons.show()
        with self._lock:
            self._handles = [*self._handles, handle][-MAX_HANDLES:]

    def run(self) -> None:
        """Look again and again, for as long as there is the server."""
        while not self._pause.wait(LOOK_EVERY_S):
            server = self._server()
            if server is None:
                self._end("The server was stopped, and nothing holds it any more. Run the launch cell again.")
                return
            try:
                self.look(server)
            except Exception:  # the kernel is going down, and its sockets are closed
                logger.debug("A card could not be drawn again", exc_info=True)
                return
            del server  # or this frame keeps it alive during the wait

    def look(self, server: Server) -> None:
        """Tell the pages, and draw the HTML again, if something has changed."""
        state, speed = card_state(server), self._measure(server)
        is_new = state != self._state
        if not is_new and (speed == self._speed or not self.view.is_visible):
            return
        self._state, self._speed = state, speed
        if is_new:
            self._draw()
        self.view.send_state()

    def _end(self, text: str) -> None:
        self.view.close(text)
        if self._buttons is not None:
            self._buttons.close()

    def _draw(self) -> None:
        if self._buttons is not None:
            self._buttons.enable("Stop", self._state.is_running)
        bundle = self._bundle()
        with self._lock:
            handles = self._handles
        for handle in handles:
            handle.update(bundle, raw=True)

    def _bundle(self) -> dict[str, Any]:
        server = self._server()
        has_buttons = self._buttons is not None
        place = f"{self.view.place} {ABOVE_CLASS}" if has_buttons else self.view.place
        html = (HIDES_DEAD_BUTTONS if has_buttons else "") + card_html(self._state, as_of=time.time(), place=place)
        return self.view.bundle("" if server is None else repr(server), html)

    def _measure(self, server: Server) -> str:
        """What it is doing, in words: from the tokens made since the last look."""
        if not server.is_running:
            return ""
        stats = [engine.stats() for engine in server.engines]
        before = self._num_tokens
        made, now = sum(each.num_completion_tokens for each in stats), time.monotonic()
        self._num_tokens = (now, made)
        running = sum(each.num_running for each in stats)
        queued = sum(each.num_queued for each in stats)
        rate = max(0.0, (made - before[1]) / (now - before[0])) if before else 0.0
        if not running and not queued and rate < 0.5:
            return "idle"
        waiting = f", {queued:,} queued" if queued else ""
        return f"{running:,} running{waiting} · {rate:,.0f} tokens/s"

    def _make_buttons(self) -> PlainButtons:
        return PlainButtons({"Stop": lambda: self._stop({}), "Restart": lambda: self._restart({})})

    def _key(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        server = self._server()
        if server is None or server.api_key is None or not server.is_running:
            raise ServerError("The server is stopped.")
        return {"key": server.api_key}

    def _stop(self, message: Mapping[str, Any]) -> None:
        server = self._server()
        if server is not None:
            server.stop()
            self.look(server)

    def _restart(self, message: Mapping[str, Any]) -> None:
        server = self._server()
        if server is None:
            raise ServerError("The server is gone. Launch it again.")
        server.restart()
        self.look(server)


def _running_cell() -> object:
    """What tells the cell that runs from every other run; None where there is none."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    kernel = getattr(shell, "kernel", None)
    try:
        return None if kernel is None else kernel.get_parent("shell")["header"]["msg_id"]
    except (AttributeError, KeyError, TypeError):
        return getattr(shell, "execution_count", None)
