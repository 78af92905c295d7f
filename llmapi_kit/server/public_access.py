"""The public side of a server: its tunnel, and who is told of the URL that it has at the moment.

Knows nothing of keys: the server decides whether it may be public. `open`, `close` and `take` are called by whoever
holds the server's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llmapi_kit.config import Settings
from llmapi_kit.tunnels import open_tunnel, tunnel_settings
from llmapi_kit.tunnels.base import Tunnel, TunnelStatus


class PublicAccess:
    """At most one tunnel.

    Args:
        announce: told of the public URL whenever it changes, and of None when there is none any more.
    """

    def __init__(self, announce: Callable[[str | None], None]) -> None:
        self._announce = announce
        self._tunnel: Tunnel | None = None
        self._options: dict[str, Any] = {}

    @property
    def kind(self) -> str | None:
        """Through whom it is public; None without a tunnel."""
        tunnel = self._tunnel
        return tunnel.kind if tunnel is not None else None

    @property
    def options(self) -> dict[str, Any]:
        """What the latest tunnel was opened with."""
        return self._options

    @property
    def url(self) -> str | None:
        """Where the tunnel answers; None without one that is up."""
        status = self.status()
        return status.public_url if status and status.state == "up" else None

    def open(self, kind: str, options: Mapping[str, Any], *, port: int, instance: str, settings: Settings) -> str:
        """Open a tunnel in place of the one before and return its URL.

        Raises:
            TunnelError: it did not open; nothing is left behind.
            ConfigError: an option is unknown, or can't be used.
        """
        wanted = tunnel_settings(**options, state_dir=settings.folder("tunnels"), instance=instance)
        self.close()
        tunnel = open_tunnel(kind, port=port, settings=wanted)
        try:
            url = tunnel.start()
        except BaseException:
            tunnel.stop()
            raise
        self._tunnel, self._options = tunnel, dict(options)
        self._announce(url)
        return url

    def close(self) -> None:
        """Close the tunnel, if there is one."""
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.stop()
            self._announce(None)

    def abandon(self) -> None:
        """Close the tunnel of a server that has died, and tell nobody."""
        if (tunnel := self._tunnel) is not None:
            tunnel.stop()

    def take(self, other: PublicAccess) -> None:
        """Go on with the tunnel of a server whose place this one's takes."""
        self._tunnel, other._tunnel = other._tunnel, None
        self._options = other._options
        self._announce(self.url)

    def status(self, *, check: bool = False) -> TunnelStatus | None:
        """How the tunnel is; None without one.

        Args:
            check: ask the public URL, which takes a moment.
        """
        tunnel = self._tunnel
        if tunnel is None:
            return None
        return tunnel.check() if check else tunnel.status()


def host_of(url: str) -> str:
    """The host name in a URL, as clients send it in the Host header: lower case, without port."""
    return url.split("://")[-1].split("/")[0].split(":")[0].lower()
