"""The public side of a server: its tunnel, and who is told of the URL that it has at the moment.

Knows nothing of keys: the server decides whether it may be public. `open`, `close` and `take` are called by whoever
holds the server's lock; the tunnel's watcher tells of changes from its own thread, and never waits for that lock.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from llmapi_kit.api.state import ApiState
from llmapi_kit.client.running_servers import RunningServers, SharedUrl
from llmapi_kit.config import Settings
from llmapi_kit.errors import ConfigError, ServerError
from llmapi_kit.loopback import LOOPBACK, LOOPBACK_HOSTS
from llmapi_kit.places import tunnel_policy
from llmapi_kit.progress import report
from llmapi_kit.server.endpoint import check_key
from llmapi_kit.server.outside_share import HostNames, status_of
from llmapi_kit.tunnels import tunnel_settings
from llmapi_kit.tunnels.base import TunnelStatus
from llmapi_kit.tunnels.watcher import WatchedTunnel

logger = logging.getLogger(__name__)


class PublicAccess:
    """At most one tunnel, which is kept open.

    Args:
        announce: told of the tunnel's status whenever it changes, and of None when there is no tunnel any more; one
            call at a time.
        shared: looks for the URL that another program has opened.
    """

    def __init__(self, announce: Callable[[TunnelStatus | None], None], shared: Callable[[], SharedUrl | None]) -> None:
        self._announce = announce
        self._shared = shared
        self._tunnel: WatchedTunnel | None = None
        self._latest_kind: str | None = None
        self._options: dict[str, Any] = {}
        self._lock = threading.Lock()

    @property
    def kind(self) -> str | None:
        """Through whom it is public; None without a tunnel."""
        if (tunnel := self._tunnel) is not None:
            return tunnel.kind
        shared = self._shared()
        return shared.kind if shared is not None else None

    @property
    def asked_kind(self) -> str | None:
        """What was asked for, which may be a choice of kinds; None without a tunnel."""
        tunnel = self._tunnel
        return tunnel.asked_kind if tunnel is not None else None

    @property
    def latest_kind(self) -> str | None:
        """What was asked for last, also after that tunnel was closed; None if there never was one."""
        return self._latest_kind

    @property
    def options(self) -> dict[str, Any]:
        """What the latest tunnel was opened with."""
        return self._options

    @property
    def url(self) -> str | None:
        """Where the tunnel answers; None without one that is up."""
        return url_of(self.status())

    def open(self, kind: str, options: Mapping[str, Any], *, port: int, instance: str, settings: Settings) -> str:
        """Open a tunnel in place of the one before and return its URL.

        Raises:
            TunnelError: it did not open; nothing is left behind.
            ConfigError: an option is unknown, or can't be used.
        """
        values = {"on_progress": report, **options}
        wanted = tunnel_settings(**values, state_dir=settings.folder("tunnels"), instance=instance)
        tunnel = WatchedTunnel(kind, port=port, settings=wanted)
        self.close()
        self._tunnel, self._latest_kind, self._options = tunnel, kind, dict(options)
        tunnel.on_change = lambda _: self._tell(tunnel)
        try:
            return tunnel.start()
        except BaseException:
            self.close()
            raise

    def give_up_opening(self) -> None:
        """End an `open` that is under way on another thread, which then raises. Needs no lock, and waits for none."""
        tunnel = self._tunnel
        if tunnel is not None and tunnel.status().state == "starting":
            tunnel.stop()

    def close(self) -> None:
        """Close the tunnel, if there is one."""
        with self._lock:
            tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.stop()
            with self._lock:
                self._announce(None)

    def abandon(self) -> None:
        """Close the tunnel of a server that has died, and tell nobody."""
        if (tunnel := self._tunnel) is not None:
            tunnel.stop()

    def take(self, other: PublicAccess) -> None:
        """Go on with the tunnel of a server whose place this one's takes."""
        with other._lock:
            tunnel, other._tunnel = other._tunnel, None
        if tunnel is not None:
            self._tunnel, self._latest_kind, self._options = tunnel, other._latest_kind, other._options
            tunnel.on_change = lambda _: self._tell(tunnel)
            self._tell(tunnel)

    def status(self, *, check: bool = False) -> TunnelStatus | None:
        """How the tunnel is; None without one.

        Args:
            check: ask the public URL, which takes a moment.
        """
        tunnel = self._tunnel
        if tunnel is None:
            return status_of(self._shared())
        return tunnel.check() if check else tunnel.status()

    def _tell(self, tunnel: WatchedTunnel) -> None:
        """Announce what is so now: of two changes at once, the later one is told of last."""
        with self._lock:
            if self._tunnel is tunnel:
                self._announce(tunnel.status())


def url_of(status: TunnelStatus | None) -> str | None:
    """The public URL to give away; None while it is known not to work."""
    return status.public_url if status is not None and status.state in ("up", "degraded") else None


def host_of(url: str) -> str:
    """The host name in a URL, as clients send it in the Host header: lower case, without port."""
    return url.split("://")[-1].split("/")[0].split(":")[0].lower()


class PublicServer(ABC):
    """What a `Server` can do about its public side."""

    api_key: str | None
    host: str
    port: int
    settings: Settings
    _state: ApiState
    _public: PublicAccess
    _registry: RunningServers
    _lock: threading.RLock

    @property
    @abstractmethod
    def is_running(self) -> bool:
        """Whether it answers."""

    @abstractmethod
    def _state_in_words(self) -> str: ...

    @abstractmethod
    def _update_record(self, **changes: Any) -> None: ...

    @property
    def public_url(self) -> str | None:
        """Where its tunnel answers; None without one. It may change when the tunnel is opened again."""
        return self._public.url

    @property
    def tunnel_kind(self) -> str | None:
        """Through whom it is public, such as ``localhost.run``; None without a tunnel."""
        return self._public.kind

    def open_tunnel(self, kind: str, **options: Any) -> str:
        """Open a tunnel and return its public URL.

        It is kept open until `close_tunnel` or `stop`: a link that dies is opened again, with another URL where its
        provider gives none to keep.

        Args:
            kind: ``auto`` for the first that works, ``ngrok``, ``cloudflared``, ``ssh`` (a host of your own),
                ``localhost.run``, ``pinggy`` or ``serveo``.
            options: fields of `TunnelSettings`, such as ``auth_token``, ``domain`` or ``host``.

        Raises:
            TunnelError: it did not open; nothing is left behind.
            ConfigError: the server has no key, or a short one; or an option is unknown.

        Examples:
            >>> server.open_tunnel("ngrok", domain="….ngrok.app")  # doctest: +SKIP
            'https://….ngrok.app'
        """
        with self._lock:
            if self.api_key is None:
                raise ConfigError("There is no tunnel without an API key: everybody could use the model.")
            check_key(self.api_key, self.host, kind)
            if not self.is_running:
                raise ServerError(f"The server is {self._state_in_words()}.")
            instance = self._state.instance
            return self._public.open(kind, options, port=self.port, instance=instance, settings=self.settings)

    def share(self, kind: str = "auto", **options: Any) -> str:
        """Make it public, and return its public URL: by the first kind of tunnel that works, unless one is named.

        `tunnel_kind` says which it is; see `open_tunnel`. What the host's rules say about tunnels is logged.

        Raises:
            TunnelError: none opened; the message says what was tried.
            ConfigError: the server has no key, or a short one; or an option is unknown.

        Examples:
            >>> server.share()  # doctest: +SKIP
            'https://….lhr.life'
        """
        if (rule := tunnel_policy()) is not None:
            logger.warning(rule)
        return self.open_tunnel(kind, **options)

    def match_tunnel(self, kind: str | None, options: Mapping[str, Any]) -> None:
        """Open, keep or close the tunnel, as asked for."""
        if kind is None:
            self.close_tunnel()
        elif self.public_url is None or self._public.asked_kind != kind:
            self.open_tunnel(kind, **options)

    @property
    def can_reopen_tunnel(self) -> bool:
        """Whether this server has, or had, a tunnel of its own."""
        return self._public.latest_kind is not None

    def reopen_tunnel(self) -> str:
        """Open the latest tunnel anew, of the same kind and options, and return its public URL, which may be another.

        Raises:
            TunnelError: it did not open; nothing is left behind.
            ServerError: there never was a tunnel, or the server does not run.

        Examples:
            >>> server.reopen_tunnel()  # doctest: +SKIP
            'https://….lhr.life'
        """
        kind = self._public.latest_kind
        if kind is None:
            raise ServerError("There was no tunnel to open again. Call server.share(), or server.open_tunnel(kind).")
        return self.open_tunnel(kind, **self._public.options)

    def close_tunnel(self) -> None:
        """Close the tunnel, if there is one; one that is being opened on another thread, too."""
        self._public.give_up_opening()
        with self._lock:
            self._public.close()

    def tunnel_status(self, *, check: bool = False) -> TunnelStatus | None:
        """How the tunnel is; None without one.

        Args:
            check: ask the public URL, which takes a moment; otherwise what is known is told.
        """
        return self._public.status(check=check)

    def can_keep_tunnel(self, old: PublicServer, tunnel: str | None) -> bool:
        """Whether the tunnel of the server whose place this one takes is up, and leads here, too."""
        return old.public_url is not None and (old._public.asked_kind, old.port) == (tunnel, self.port)

    def _announce(self, tunnel: TunnelStatus | None) -> None:
        """Let all know how the tunnel is. May be on the watcher's thread, which may not wait for the lock."""
        # A dead link may come back by itself, and is asked by its name whether it did
        self._allow_hosts(tunnel.public_url if tunnel is not None else None)
        self._update_record(public_url=url_of(tunnel))

    def _allow_hosts(self, public_url: str | None = None) -> None:
        """Which Host headers are answered: this machine's names and the tunnel's; any, when bound to the network."""
        public = (host_of(public_url),) if public_url and host_of(public_url) not in LOOPBACK_HOSTS else ()
        self._state.public_hosts = HostNames(public, self._shared_name)
        self._state.hosts = HostNames((*LOOPBACK_HOSTS, *public), self._shared_name) if self.host in LOOPBACK else ()

    def _shared_name(self) -> str | None:
        """The name that another program of this user leads here under, if one does."""
        shared = self._registry.shared(self._state.instance)
        if shared is None or shared.public_url is None:
            return None
        name = host_of(shared.public_url)
        return name if name not in LOOPBACK_HOSTS else None
