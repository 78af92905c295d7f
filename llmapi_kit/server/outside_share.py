"""A server that another program of this user makes public, as ``llmapi-kit share`` does.

The program's tunnel leads to the server's port under a name that the server does not know by itself; it is looked up
in the user's private folder when a request comes by a name that is not known, and when somebody asks how the tunnel
is. Nothing can be shared over HTTP: no key opens a tunnel. May be called from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast, overload

from llmapi_kit.client.running_servers import RunningServers, ServerRecord, SharedUrl
from llmapi_kit.config import Settings
from llmapi_kit.server.endpoint import check_key
from llmapi_kit.tunnels import tunnel_settings
from llmapi_kit.tunnels.base import TunnelState, TunnelStatus
from llmapi_kit.tunnels.watcher import WatchedTunnel


class HostNames(Sequence[str]):
    """Names that a server is called by: its own, and the one that it is shared under at the moment.

    Args:
        names: its own, in lower case.
        shared_name: looks for another one; asked only for a name that is not among these.
    """

    def __init__(self, names: Sequence[str], shared_name: Callable[[], str | None]) -> None:
        self._names = tuple(names)
        self._shared_name = shared_name

    def __contains__(self, name: object) -> bool:
        return name in self._names or (bool(name) and name == self._shared_name())

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self._names[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def status_of(shared: SharedUrl | None) -> TunnelStatus | None:
    """A tunnel of another program as its server shows it; None for none."""
    if shared is None:
        return None
    return TunnelStatus(cast(TunnelState, shared.state), shared.public_url, shared.reason)


class OutsideShare:
    """Makes a server of another process public; a context manager.

    Args:
        record: the server.
        kind: of the tunnel.
        options: fields of `TunnelSettings`.
        settings: whose folder has the records.

    Raises:
        ConfigError: the server has no key, or a short one; an option is unknown.
    """

    def __init__(self, record: ServerRecord, kind: str, options: dict[str, object], settings: Settings) -> None:
        self._registry = RunningServers(settings)
        check_key(self._registry.key(record), "127.0.0.1", kind)
        self._instance = record.instance
        wanted = tunnel_settings(**options, state_dir=settings.folder("tunnels"), instance=record.instance)
        self.tunnel = WatchedTunnel(kind, port=record.port, settings=wanted, on_change=self._tell)

    def __enter__(self) -> OutsideShare:
        """Open the tunnel.

        Raises:
            TunnelError: it did not open.
        """
        try:
            self.tunnel.start()
        except BaseException:
            self._registry.unshare(self._instance)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.tunnel.stop()
        self._registry.unshare(self._instance)

    def _tell(self, status: TunnelStatus) -> None:
        shared = SharedUrl(self.tunnel.kind, status.state, status.public_url, status.reason)
        self._registry.share(self._instance, shared)
