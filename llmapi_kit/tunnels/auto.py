"""The first kind of tunnel that works, with what is there: a host of one's own, a token, an installed agent, ssh.

Says which it took and why the others failed. Knows nothing of agents; runs in the caller's thread.
"""

from __future__ import annotations

import logging
import threading

from llmapi_kit.errors import ConfigError, LlmApiKitError, TunnelDownError, TunnelError
from llmapi_kit.tunnels.base import Tunnel, TunnelSettings, TunnelStatus
from llmapi_kit.tunnels.health import NAME_NOT_ALLOWED, Health
from llmapi_kit.tunnels.kinds import SSH_OPTIONS, open_tunnel, settings_of_choice

logger = logging.getLogger(__name__)

# What the user set up comes first; then what needs no account, the longest-lived first
ORDER = ("ssh", "ngrok", "cloudflared", "localhost.run", "pinggy", "serveo")
PROVIDER_WAIT_S = 0.5
NUM_PROBES = 6
PROBE_TIMEOUT_S = 5.0


class AutoTunnel:
    """A tunnel of the first kind that opens and leads here. Implements the `Tunnel` protocol."""

    def __init__(self, *, port: int, settings: TunnelSettings) -> None:
        self._port = port
        self._settings = settings
        self._chosen: Tunnel | None = None
        self._candidates: list[Tunnel] | None = None
        self._failures: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    @property
    def kind(self) -> str:
        """See `Tunnel.kind`."""
        return self._chosen.kind if self._chosen is not None else "auto"

    @property
    def settle_s(self) -> float:
        """See `Tunnel.settle_s`."""
        return self._chosen.settle_s if self._chosen is not None else 0.0

    @property
    def is_open(self) -> bool:
        """See `Tunnel.is_open`."""
        return self._chosen is not None and self._chosen.is_open

    def prepare(self) -> None:
        """See `Tunnel.prepare`: at least one kind must be able to start."""
        if self._candidates is not None:
            return
        self._candidates = []
        for kind in ORDER:
            if kind == "ssh" and self._settings.host is None:
                self._check_no_ssh_options()
                continue
            tunnel = open_tunnel(kind, port=self._port, settings=settings_of_choice(kind, self._settings))
            try:
                tunnel.prepare()
                self._candidates.append(tunnel)
            except LlmApiKitError as exc:
                if kind == "ssh":
                    raise  # it was asked for by name
                self._failures.append((kind, str(exc)))
        if not self._candidates:
            raise self._nothing_works()

    def start(self) -> str:
        """See `Tunnel.start`. `timeout_s` is each kind's own."""
        self.prepare()
        for tunnel in self._candidates or []:
            with self._lock:
                if self._stopping.is_set():
                    raise TunnelDownError("The tunnel was stopped while it started.")
                self._chosen = tunnel
            self._say(f"opening a tunnel: {tunnel.kind}")
            try:
                url = tunnel.start()
                self._check_it_leads_here(tunnel)
            except LlmApiKitError as exc:
                if self._stopping.is_set():
                    raise
                tunnel.stop()
                self._failures.append((tunnel.kind, str(exc)))
                logger.info("No tunnel of kind %s: %s", tunnel.kind, exc)
                continue
            except BaseException:
                self.stop()
                raise
            self._say(f"the tunnel is open: {tunnel.kind}")
            return url
        with self._lock:
            self._chosen = None
        raise self._nothing_works()

    def status(self) -> TunnelStatus:
        """See `Tunnel.status`."""
        if self._chosen is not None:
            return self._chosen.status()
        if self._failures and self._candidates is not None and not self._stopping.is_set():
            return TunnelStatus("down", reason=str(self._nothing_works()))
        return TunnelStatus("stopped")

    def probe(self, *, timeout_s: float = 10.0) -> Health | None:
        """See `Tunnel.probe`."""
        return self._chosen.probe(timeout_s=timeout_s) if self._chosen is not None else None

    def check(self, *, timeout_s: float = 10.0) -> TunnelStatus:
        """See `Tunnel.check`."""
        return self._chosen.check(timeout_s=timeout_s) if self._chosen is not None else self.status()

    def stop(self) -> None:
        """See `Tunnel.stop`."""
        with self._lock:
            self._stopping.set()
            chosen = self._chosen
        if chosen is not None:
            chosen.stop()

    def _check_no_ssh_options(self) -> None:
        for name in SSH_OPTIONS:
            if getattr(self._settings, name) is not None:
                raise ConfigError(f"{name} is of use with host only: where to log in with ssh.")

    def _check_it_leads_here(self, tunnel: Tunnel) -> None:
        """Raise where the URL is answered by somebody else. One that is not reached from here may be by others."""
        if tunnel.settle_s:
            return
        health: Health | None = None
        for _ in range(NUM_PROBES):
            health = tunnel.probe(timeout_s=PROBE_TIMEOUT_S)
            # The server is told of its new name only when the tunnel has been chosen
            if health is None or health.is_ok or health.code == NAME_NOT_ALLOWED or health.cause != "answer":
                break
            if self._stopping.wait(PROVIDER_WAIT_S):
                break
        if health is not None and health.cause == "answer" and health.code != NAME_NOT_ALLOWED:
            raise TunnelDownError(f"It opened, but does not lead here: {health.reason}", code=health.code)

    def _nothing_works(self) -> TunnelError:
        lines = "\n".join(f"  {kind}: {_in_short(why)}" for kind, why in self._failures)
        return TunnelError(f"No tunnel could be opened. Tried:\n{lines}")

    def _say(self, line: str) -> None:
        logger.info(line)
        if self._settings.on_progress is not None:
            self._settings.on_progress(line)


def _in_short(text: str) -> str:
    """The first sentence: what each kind advises at length would be too much for all of them."""
    return text.splitlines()[0].split(". ")[0].removesuffix(".") + "." if text else "no reason was given."
