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
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from llmapi_kit.errors import ServerError
from llmapi_kit.notebook.card import card_html, card_state, live_state
from llmapi_kit.notebook.live_view import FOLDER, Action, LiveView
from llmapi_kit.notebook.plain_buttons import ABOVE_CLASS, HIDES_DEAD_BUTTONS, PlainButtons, needs_plain_buttons
from llmapi_kit.notebook.qr_code import qr_code
from llmapi_kit.notebook.team import Member, Team
from llmapi_kit.notebook.team_row import KEY_ACTIONS, TeamRow
from llmapi_kit.server.server import Server

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
MAX_HANDLES = 8  # of one card; cells that are run again leave handles without a place behind
# What the plain buttons do, by their titles
BUTTONS = {
    "Stop": "stop",
    "Restart": "restart",
    "Reopen tunnel": "reopen_tunnel",
    "Close tunnel": "close_tunnel",
}

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
        self._team = Team()
        self._members: tuple[Member, ...] = self._team.look(server)
        self._num_tokens: tuple[float, float] | None = None
        self._handles: list[Any] = []
        self._shown_in: object = None
        self._lock = threading.Lock()
        self._pause = threading.Event()
        self.view = LiveView(
            [FOLDER / "team.js", FOLDER / "card.js"],
            [FOLDER / "card.css", FOLDER / "team.css"],
            state=lambda: live_state(self._state, self._speed, self._members),
            actions={"key": self._key, "invite": self._invite, **self._plain_actions()},
        )
        self._buttons, self._team_row = None, None
        if needs_plain_buttons(self.view):
            self._buttons, self._team_row = self._make_buttons(), TeamRow(self._change_key)
            self._team_row.update(self._members)
            self._enable_buttons()

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
        if self._team_row is not None:
            self._team_row.show()
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
        state = card_state(server)
        is_new = state != self._state
        if not is_new and not self.view.is_visible:
            return
        now = (self._measure(server), self._team.look(server))
        if not is_new and now == (self._speed, self._members):
            return
        self._state, (self._speed, self._members) = state, now
        if self._team_row is not None:
            self._team_row.update(self._members)
        if is_new:
            self._draw()
        self.view.send_state()

    def _end(self, text: str) -> None:
        self.view.close(text)
        for row in (self._buttons, self._team_row):
            if row is not None:
                row.close()

    def _draw(self) -> None:
        self._enable_buttons()
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
        return PlainButtons({title: partial(self._do, action) for title, action in BUTTONS.items()})

    def _enable_buttons(self) -> None:
        """Only what can be done now can be clicked."""
        if self._buttons is not None:
            self._buttons.enable("Stop", self._state.is_running)
            self._buttons.enable("Reopen tunnel", self._state.is_running and self._state.can_reopen_tunnel)
            self._buttons.enable("Close tunnel", self._state.tunnel is not None)

    def _plain_actions(self) -> dict[str, Action]:
        """What a page may ask for whose answer is how the server is then."""
        actions: dict[str, Action] = {name: partial(self._on_message, name) for name in BUTTONS.values()}
        return actions | {name: partial(self._on_key_message, name) for name in KEY_ACTIONS}

    def _on_message(self, action: str, message: Mapping[str, Any]) -> None:
        self._do(action)

    def _on_key_message(self, action: str, message: Mapping[str, Any]) -> None:
        self._change_key(action, str(message.get("name")))

    def _key(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        server = self._running_server()
        if server.api_key is None:
            raise ServerError("The server asks for no key.")
        return {"key": server.api_key}

    def _invite(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """An invitation, which goes to the page that asked, and nowhere else."""
        server = self._running_server()
        invitation = server.invite(str(message.get("name", "")).strip())
        self._look_again(server)
        return {"name": invitation.name, "url": invitation.url, "qrCode": qr_code(invitation.url),
                "isLocal": server.public_url is None}  # fmt: skip

    def _change_key(self, action: str, name: str) -> None:
        server = self._running_server()
        {"pause": server.keys.pause, "resume": server.keys.resume, "revoke": server.keys.revoke}[action](name)
        self._look_again(server)

    def _do(self, action: str) -> None:
        server = self._server()
        if server is None:
            raise ServerError("The server is gone. Launch it again.")
        work: dict[str, Callable[[], object]] = {
            "stop": server.stop,
            "restart": server.restart,
            "reopen_tunnel": server.reopen_tunnel,
            "close_tunnel": server.close_tunnel,
        }
        try:
            work[action]()
        finally:  # a tunnel that did not open again has gone
            self._look_again(server)

    def _look_again(self, server: Server) -> None:
        self._team.expire()
        self.look(server)

    def _running_server(self) -> Server:
        server = self._server()
        if server is None or not server.is_running:
            raise ServerError("The server is stopped.")
        return server


def _running_cell() -> object:
    """What tells the cell that runs from every other run; None where there is none."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    kernel = getattr(shell, "kernel", None)
    try:
        return None if kernel is None else kernel.get_parent("shell")["header"]["msg_id"]
    except (AttributeError, KeyError, TypeError):
        return getattr(shell, "execution_count", None)
