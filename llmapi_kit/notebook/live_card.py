"""A card that stays true: shown for a `Server`, and drawn again when the server's state changes.

Also in the middle of another cell: one thread for each server that is shown looks once a second, and ends with the
server. Called by `llmapi_kit.notebook.display`, in the kernel's main thread.
"""

from __future__ import annotations

import logging
import threading
import weakref
from typing import Any

from llmapi_kit.notebook.card import CardState, card_html, card_state
from llmapi_kit.notebook.environment import has_anywidget
from llmapi_kit.server.server import Server

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
MAX_CARDS = 8  # of one server; cells that are run again leave handles without a place behind

_watchers: weakref.WeakKeyDictionary[Server, _Watcher] = weakref.WeakKeyDictionary()


def show(server: Server) -> None:
    """Show a server's card in the cell that runs."""
    from IPython import display as output

    display: Any = output.display  # untyped there
    state = card_state(server)
    handle = display(_bundle(server, state), raw=True, display_id=True)
    if server.is_running:
        row = _key_row(server)
        if row is not None:
            display(row)
        _watch(server, handle, state)


def _bundle(server: Server, state: CardState) -> dict[str, str]:
    return {"text/plain": repr(server), "text/html": card_html(state)}


def _key_row(server: Server) -> Any:
    """The widget; None where it can't be made, as the card does without it."""
    if server.api_key is None or not has_anywidget():
        return None
    try:
        from llmapi_kit.notebook.key_row import KeyRow

        return KeyRow(server)
    except Exception as exc:  # a front-end library that does not match must not hide the server
        logger.warning("The key's buttons can't be shown (%s); server.api_key is the key", exc)
        return None


def _watch(server: Server, handle: Any, state: CardState) -> None:
    watcher = _watchers.get(server)
    if watcher is None or not watcher.is_alive():
        watcher = _watchers[server] = _Watcher(server, state)
        watcher.add(handle)
        watcher.start()
    else:
        watcher.add(handle)


class _Watcher(threading.Thread):
    """Draws a server's cards again when what they show has changed.

    Args:
        server: not kept alive by this.
        state: what the cards show now.
    """

    def __init__(self, server: Server, state: CardState) -> None:
        super().__init__(name=f"llmapi_kit card :{server.port}", daemon=True)
        self._server = weakref.ref(server)
        self._state = state
        self._handles: list[Any] = []
        self._handles_lock = threading.Lock()
        self._pause = threading.Event()

    def add(self, handle: Any) -> None:
        """Keep one more card up to date."""
        with self._handles_lock:
            self._handles = [*self._handles, handle][-MAX_CARDS:]

    def run(self) -> None:
        while not self._pause.wait(LOOK_EVERY_S):
            server = self._server()
            if server is None:
                return
            try:
                self._draw(server)
            except Exception:  # the kernel is going down, and its sockets are closed
                logger.debug("A card could not be drawn again", exc_info=True)
                return
            if not self._state.is_running:
                return
            del server  # or this frame keeps it alive during the wait

    def _draw(self, server: Server) -> None:
        state = card_state(server)
        if state == self._state:
            return
        self._state = state
        with self._handles_lock:
            handles = self._handles
        for handle in handles:
            handle.update(_bundle(server, state), raw=True)
