"""The servers of this process by name, and how one takes another's place.

The only state of the package that outlives a call, together with the models this process has loaded. What
`llmapi_kit.kit` calls, from the kernel's main thread; knows nothing of how things look.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from llmapi_kit.api.auth import new_api_key
from llmapi_kit.client.running_servers import RunningServers
from llmapi_kit.client.server_keys import ServerKeys
from llmapi_kit.config import Settings, load_settings
from llmapi_kit.engines.base import Engine
from llmapi_kit.errors import PortInUseError, ServerError
from llmapi_kit.loading.load_request import LoadRequest
from llmapi_kit.loading.loaded_models import LoadedModels
from llmapi_kit.loading.model import Model
from llmapi_kit.loading.servable import Servable
from llmapi_kit.progress import report
from llmapi_kit.server.endpoint import Endpoint
from llmapi_kit.server.port import DEFAULT_PORT, pick_port
from llmapi_kit.server.server import Server

logger = logging.getLogger(__name__)

LOCK_AT_EXIT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What a server is to be: a call of `kit.launch`, resolved.

    Attributes:
        endpoint: where it is to answer.
        settings: its limits and timeouts.
        name: tells servers of this process apart; the port unless given.
        aliases: further names to answer to, each with the model that it stands for.
        default: the model that answers where none is named, if not the first.
        ends_its_models: whether its engines end with it, as those in a cluster do.
    """

    endpoint: Endpoint
    settings: Settings
    name: str | None = None
    aliases: Mapping[str, str] | None = None
    default: str | None = None
    ends_its_models: bool = False

    @property
    def identity(self) -> str:
        """What it is told apart by in this process, and its key is kept for on this machine."""
        return self.name or str(DEFAULT_PORT if self.endpoint.port is None else self.endpoint.port)


class OwnServers:
    """Every server and every model of this process. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.models = LoadedModels(self._lock)
        self._servers: dict[str, Server] = {}  # by identity of the launch

    def running(self) -> list[Server]:
        """Those that run, the oldest first."""
        with self._lock:
            self._forget_stopped()
            return list(self._servers.values())

    def check(self, wanted: Launch) -> None:
        """Raise what a launch would, as far as that can be told before a model is loaded; starts nothing.

        Raises:
            PortInUseError: another program, or another kernel's server, has the port.
            ConfigError: see `Endpoint.check`.
        """
        endpoint = wanted.endpoint
        with self._lock:
            self._forget_stopped()
            old = self._servers.get(wanted.identity)
            is_held = old is not None and old.is_running and endpoint.port in (0, None, old.port)
            key = old.api_key if old is not None and endpoint.api_key is None else endpoint.api_key
            try:
                replace(endpoint, api_key=key).check(wanted.settings, is_held=is_held)
            except PortInUseError as exc:
                raise _explain_port(exc, endpoint.port or 0) from exc.__cause__

    def engines(self, wanted: Sequence[Servable], launch: Launch) -> list[Engine]:
        """The engines of what a launch was given; of several models that are loaded here, those given by name later."""
        is_lazy = len(wanted) > 1 and not launch.ends_its_models
        there = [
            self.models.load(each, is_lazy=is_lazy, settings=launch.settings) if isinstance(each, LoadRequest) else each
            for each in wanted
        ]
        return [each.engine if isinstance(each, Model) else each for each in there]

    def launch(self, engines: Sequence[Engine], wanted: Launch) -> Server:
        """Have the server of that name answer with these engines: the one that runs, or a new one in its place.

        Returns:
            The server, which answers.

        Raises:
            PortInUseError: another program, or another kernel's server, has the port.
            ServerStartError: the server did not come up; the cause is chained.
            TunnelError: the tunnel did not open.
        """
        endpoint, limits = wanted.endpoint, wanted.settings
        on_stop = self._end_of(engines if wanted.ends_its_models else ())
        with self._lock:
            self._forget_stopped()
            old = self._servers.get(wanted.identity)
            key = self._key(wanted, old)
            before = old.models if old is not None else []
            is_same = old is not None and (old.host, old.api_key, old.settings) == (endpoint.host, key, limits)
            if old is not None and is_same and old.is_running and endpoint.port in (0, None, old.port):
                old.match_tunnel(endpoint.tunnel, endpoint.tunnel_options)  # first: if it fails, all is as it was
                old.on_stop = on_stop
                self._unload(old.replace_engines(engines, wanted.aliases, wanted.default), limits.drain_s)
                return _say_what_is_replaced(old, before)
            server = self._make(engines, wanted, old, key)
            server.on_restart = partial(self._take_place, wanted.identity, weakref.ref(server))
            server.on_stop = on_stop
            report("starting the server")
            _bring_up(server, old, endpoint)
            self._servers[wanted.identity] = server
            if old is not None:
                self._end(old, server, endpoint.tunnel)
            return _say_what_is_replaced(server, before)

    def stop_all(self, drain_s: float = 0.0) -> None:
        """Stop every server and unload every model."""
        with self._lock:
            for identity, server in list(self._servers.items()):
                server.stop(drain_s)
                if self._servers.get(identity) is server:
                    del self._servers[identity]
                self._unload(server.engines)
            self.models.close_all()

    def stop_at_exit(self, pid: int) -> None:
        """Stop all; not in a forked child, whose servers are its parent's, nor while a load holds the lock for long."""
        if os.getpid() == pid and self._lock.acquire(timeout=LOCK_AT_EXIT_S):
            self.stop_all()

    def _key(self, wanted: Launch, old: Server | None) -> str | None:
        """The key that was given, that of the server before, or the one that is kept for the name."""
        given = wanted.endpoint.api_key
        if given is False:
            return None
        return given or (old.api_key if old else None) or ServerKeys(wanted.settings).key(wanted.identity, new_api_key)

    def _make(self, engines: Sequence[Engine], wanted: Launch, old: Server | None, key: str | None) -> Server:
        """A server that is not started; one that runs at the same address makes way when it is."""
        host = wanted.endpoint.host
        port = _port(wanted.endpoint.port, host, old)
        in_place = old if old is not None and old.is_running and (old.host, old.port) == (host, port) else None
        if old is not None and in_place is None and old.port == port:
            old.stop()  # it is dead, or at another address that does not go together with the new one
        try:
            return Server(
                engines,
                host=host,
                port=port,
                api_key=key,
                settings=wanted.settings,
                aliases=wanted.aliases,
                default=wanted.default,
                name=wanted.identity,
                instead_of=in_place,
            )
        except PortInUseError as exc:
            raise _explain_port(exc, port) from exc.__cause__

    def _end(self, old: Server, server: Server, tunnel: str | None) -> None:
        """End a server whose place another one took, and unload what only it answered with."""
        kept = {id(engine) for engine in server.engines}
        try:
            server.take_over(old, tunnel)
        finally:  # also when the cell is interrupted meanwhile
            self._unload([engine for engine in old.engines if id(engine) not in kept])

    def _end_of(self, engines: Sequence[Engine]) -> Callable[[], None]:
        """What to do when a server has stopped: its models in a cluster have nobody left who could ask them."""

        def end() -> None:
            with self._lock:
                self._unload(engines)

        return end

    def _take_place(self, identity: str, again: weakref.ref[Server]) -> None:
        """Have a server that starts again be this process's one of its name."""
        server = again()
        if server is None:
            return
        with self._lock:
            if self._servers.get(identity) is not server:
                self._forget_stopped()
            other = self._servers.setdefault(identity, server)
            if other is not server:
                raise ServerError(
                    f"Another server of this notebook, at {other.url}, has taken this one's place. Use that."
                )

    def _forget_stopped(self) -> None:
        for identity, server in list(self._servers.items()):
            if server.is_stopped:
                del self._servers[identity]

    def _unload(self, engines: Sequence[Engine], drain_s: float = 0.0) -> None:
        """Close engines that `load` made and no server uses any more; see `LoadedModels.unload`."""
        self._forget_stopped()
        used = {id(engine) for server in self._servers.values() for engine in server.engines}
        self.models.unload(engines, used, drain_s)


def _port(port: int | None, host: str, old: Server | None) -> int:
    """Where to answer: where the server before did, unless another port is asked for."""
    if port:
        return port
    if old is not None:
        return old.port
    if port == 0:
        return 0
    found = pick_port(host)
    if found != DEFAULT_PORT:
        logger.warning("Port %d is in use, so the server takes another one: see server.url", DEFAULT_PORT)
    return found


def _bring_up(server: Server, old: Server | None, endpoint: Endpoint) -> None:
    """Start a server, with its tunnel; if that fails, the one before it goes on as it was."""
    try:
        server.start()
        if old is None or not server.can_keep_tunnel(old, endpoint.tunnel):
            server.match_tunnel(endpoint.tunnel, endpoint.tunnel_options)
    except BaseException:
        server.stop(0)
        if old is not None and old.is_running:
            old.reappear()
        raise


def _say_what_is_replaced(server: Server, before: Sequence[str]) -> Server:
    """Tell which models a launch took out of service: a second launch may have been meant as a second server."""
    server.replaced = tuple(model for model in before if model not in server.models)
    if server.replaced:
        logger.warning(
            "%s now answers at %s in place of %s. Launch with another name=… for a second server",
            ", ".join(server.models),
            server.url,
            ", ".join(server.replaced),
        )
    return server


def _explain_port(error: PortInUseError, port: int) -> PortInUseError:
    """Say so when the program on the port is another kernel's server."""
    record = next((r for r in RunningServers(load_settings()).running() if r.port == port), None)
    if record is None:
        return error
    if record.pid == os.getpid():
        return PortInUseError(
            f"Port {port} is used by another server of this notebook, launched under another name. Stop that one, or "
            "pass port=0 to pick a free port."
        )
    return PortInUseError(
        f"Port {port} is used by the llmapi_kit server of another notebook (pid {record.pid}, model "
        f"{', '.join(record.models)}). Use it with kit.connect({record.url!r}), or pass port=0 to pick a free port."
    )
