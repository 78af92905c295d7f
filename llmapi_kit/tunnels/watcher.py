"""Keeps a tunnel of any kind open: asks its public URL now and then, and opens it again when the link is dead.

What counts as dead: the agent ended; or the URL was answered by somebody else, or by nobody although it used to be.
Not reopened are a URL whose name DNS does not know, and one that was never reached from here: the fault may be this
machine's own network, and a new URL would only take away the old one from those who reach it. Nor is anything
reopened while the server on this machine does not answer.

Knows no provider and no process. Threads: one *watcher thread* per tunnel, a daemon; the agents' own threads are
`process`'s business. `start`, `check` and `stop` run in the caller's thread. `on_change` is called by whichever of
them saw a change, one at a time.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from llmapi_kit.errors import ConfigError, LlmApiKitError, TunnelAuthError
from llmapi_kit.tunnels.backoff import Backoff
from llmapi_kit.tunnels.base import Tunnel, TunnelSettings, TunnelState, TunnelStatus
from llmapi_kit.tunnels.health import Health, check_health
from llmapi_kit.tunnels.kinds import open_tunnel, settings_of_choice

logger = logging.getLogger(__name__)

LOOK_S = 0.25  # how often the agent is looked at, which asks nobody
PROBE_TIMEOUT_S = 10.0
# A URL that was not reached is asked again sooner than usual
REPEAT_S = 3.0
# So many in a row make a link dead
MAX_FAILURES = 3
# A link that held so long was a good one
STABLE_S = 60.0
STOP_TIMEOUT_S = 2.0


def _is_known(exc: Exception) -> bool:
    """Whether its message says all that there is to say."""
    return isinstance(exc, LlmApiKitError)


def _nobody(_: TunnelStatus) -> None:
    """Nobody wants to know."""


class WatchedTunnel:
    """One public URL for one local port, for as long as it is wanted. Implements the `Tunnel` protocol.

    The URL may change when the tunnel is opened again; `on_change` is told.

    Args:
        kind: of `TUNNEL_KINDS`.
        port: of the server on this machine.
        settings: of the tunnel.
        on_change: told of each new status; may not block for long, nor call `start` or `stop`.
        backoff: how long to wait before it is opened again.

    Raises:
        ConfigError: the kind is unknown, it has no such option, or the port is not valid.
    """

    def __init__(
        self,
        kind: str,
        *,
        port: int,
        settings: TunnelSettings,
        on_change: Callable[[TunnelStatus], None] = _nobody,
        backoff: Backoff | None = None,
    ) -> None:
        self.asked_kind = kind
        self.on_change = on_change
        self._port = port
        self._settings = settings
        self._backoff = backoff or Backoff()
        self._tunnel: Tunnel = open_tunnel(kind, port=port, settings=settings)
        self._kind: str | None = None
        self._status = TunnelStatus("stopped")
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self._stopping = threading.Event()
        self._num_failures = 0
        self._was_reached = False
        self._up_since = 0.0

    def __repr__(self) -> str:
        return f"<WatchedTunnel {self.kind} {self._status.state} {self._status.public_url or ''}>"

    # The Tunnel protocol.

    @property
    def kind(self) -> str:
        """See `Tunnel.kind`: while a choice is made again, what worked last."""
        return self._kind or self._tunnel.kind

    @property
    def settle_s(self) -> float:
        """See `Tunnel.settle_s`."""
        return self._tunnel.settle_s

    @property
    def is_open(self) -> bool:
        """See `Tunnel.is_open`."""
        return self._tunnel.is_open

    def prepare(self) -> None:
        """See `Tunnel.prepare`."""
        self._tunnel.prepare()

    def start(self) -> str:
        """See `Tunnel.start`. The first opening is not repeated: what speaks against it is raised."""
        if self._thread is not None and self._status.public_url is not None:
            return self._status.public_url
        self._set(TunnelStatus("starting"))
        try:
            url = self._tunnel.start()
        except BaseException as exc:
            self._set(self._tunnel.status() if isinstance(exc, Exception) else TunnelStatus("stopped"))
            raise
        self._now_up(url)
        with self._lock:
            if self._thread is None and not self._stopping.is_set():
                name = f"llmapi-kit-tunnel-watcher-{self._port}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()
        return url

    def status(self) -> TunnelStatus:
        """See `Tunnel.status`. A dead agent shows within a second."""
        return self._status

    def probe(self, *, timeout_s: float = PROBE_TIMEOUT_S) -> Health | None:
        """See `Tunnel.probe`."""
        return self._tunnel.probe(timeout_s=timeout_s)

    def check(self, *, timeout_s: float = PROBE_TIMEOUT_S) -> TunnelStatus:
        """See `Tunnel.check`. "degraded" where nobody answered, "down" where somebody else did."""
        tunnel = self._tunnel
        health = tunnel.probe(timeout_s=timeout_s)
        if health is not None and tunnel is self._tunnel:
            self._judge(tunnel, health)
        return self._status

    def stop(self) -> None:
        """See `Tunnel.stop`."""
        with self._lock:
            self._stopping.set()
            tunnel, thread = self._tunnel, self._thread
        tunnel.stop()
        if thread is not None and thread is not threading.current_thread():
            thread.join(STOP_TIMEOUT_S)
        self._set(TunnelStatus("stopped"), is_last=True)

    # The watcher thread.

    def _run(self) -> None:
        try:
            next_probe = time.monotonic() + self._tunnel.settle_s
            while not self._stopping.wait(LOOK_S):
                state = self._tunnel.status().state
                if state == "stopped":
                    return  # by the interpreter's end
                if not self._tunnel.is_open:
                    self._reopen(self._tunnel.status().reason)
                    next_probe = time.monotonic() + self._tunnel.settle_s
                elif time.monotonic() >= next_probe:
                    next_probe = time.monotonic() + self._look()
                else:
                    self._follow_url()
        except Exception:  # a thread that ends without a word would leave a dead link shown as up
            logger.exception("The watcher of the tunnel at %s ended", self._status.public_url)
            self._set(replace(self._status, state="down", reason="The tunnel's watcher failed; open the tunnel again."))

    def _look(self) -> float:
        """Ask the public URL once, and do what follows; returns how long to wait before the next time."""
        tunnel = self._tunnel
        health = tunnel.probe(timeout_s=PROBE_TIMEOUT_S)
        if health is None or self._stopping.is_set():
            return 0.0
        self._judge(tunnel, health)
        if health.is_ok:
            if time.monotonic() - self._up_since > STABLE_S:
                self._backoff.reset()
            return self._interval()
        if self._is_dead(health):
            self._reopen(health.reason)
            return self._tunnel.settle_s
        if self._num_failures < MAX_FAILURES:
            return min(REPEAT_S, self._settings.probe_interval_s)
        return self._interval()

    def _interval(self) -> float:
        return self._settings.probe_interval_s * random.uniform(0.9, 1.1)  # noqa: S311 - no secret

    def _judge(self, tunnel: Tunnel, health: Health) -> None:
        """Let the status say what the public URL showed."""
        url = tunnel.status().public_url
        if health.is_ok:
            self._num_failures, self._was_reached = 0, True
            self._set(TunnelStatus("up", url))
            return
        self._num_failures += 1
        is_lost = health.cause == "answer" or (self._was_reached and self._num_failures >= MAX_FAILURES)
        state: TunnelState = "down" if is_lost else "degraded"
        self._set(TunnelStatus(state, url, health.reason, health.code))

    def _is_dead(self, health: Health) -> bool:
        """Whether to open it again, after a public URL that was not reached."""
        if self._num_failures < MAX_FAILURES or health.cause == "dns":
            return False
        if health.cause == "silence" and not self._was_reached:
            return False
        return self._is_server_there()

    def _is_server_there(self) -> bool:
        here = check_health(
            f"http://127.0.0.1:{self._port}",
            instance=self._settings.instance,
            headers={},
            known_page=lambda _: None,
            timeout_s=PROBE_TIMEOUT_S,
            is_local=True,
        )
        if not here.is_ok:
            reason = f"The server on this machine does not answer: {here.reason}"
            self._set(replace(self._status, state="down", reason=reason))
        return here.is_ok

    def _follow_url(self) -> None:
        """A provider may rename a tunnel that is open."""
        url = self._tunnel.status().public_url
        if url is not None and url != self._status.public_url:
            self._now_up(url)

    def _reopen(self, reason: str | None) -> None:
        """Open the tunnel again, however often it takes. Returns when it is open, or not wanted any more."""
        before = self._status.public_url
        logger.warning("The tunnel at %s is dead and is opened again. %s", before, reason)
        while not self._stopping.is_set():
            wait_s = self._backoff.next_s()
            words = f"{reason or 'The link is dead.'} It is opened again in {wait_s:.0f} s."
            self._set(TunnelStatus("down", before, words))
            self._tunnel.stop()
            if self._stopping.wait(wait_s):
                return
            try:
                url = self._open_anew()
            except Exception as exc:
                reason = (str(exc).splitlines() or [type(exc).__name__])[0]
                if isinstance(exc, (TunnelAuthError, ConfigError)):
                    self._backoff.slow_down()
                logger.warning("The tunnel could not be opened again: %s", exc, exc_info=not _is_known(exc))
                continue
            if url is not None:
                self._now_up(url)
            return

    def _open_anew(self) -> str | None:
        """The URL of another tunnel; None when it is not wanted any more.

        What worked is tried first, and every other time what was asked for, which may be a choice.
        """
        kind = self.kind if self._backoff.num_tries % 2 else self.asked_kind
        tunnel = open_tunnel(kind, port=self._port, settings=self._settings_for(kind))
        with self._lock:
            if self._stopping.is_set():
                return None
            self._tunnel = tunnel
        return tunnel.start()

    def _settings_for(self, kind: str) -> TunnelSettings:
        return self._settings if kind == self.asked_kind else settings_of_choice(kind, self._settings)

    # State.

    def _now_up(self, url: str) -> None:
        before, self._kind = self._status.public_url, self._tunnel.kind
        if before is not None and before != url:
            logger.warning("The public URL has changed from %s to %s", before, url)
            self._was_reached = False
        self._num_failures = 0
        self._up_since = time.monotonic()
        self._set(TunnelStatus("up", url))

    def _set(self, status: TunnelStatus, *, is_last: bool = False) -> None:
        with self._telling:
            if status == self._status or (self._stopping.is_set() and not is_last):
                return
            self._status = status
            try:
                self.on_change(status)
            except Exception:  # what somebody does with the news must not end the watch
                logger.exception("Telling of the tunnel's state failed")
