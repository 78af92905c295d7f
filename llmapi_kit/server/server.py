"""`Server`: the handle that `kit.launch` returns.

Ties together the server's thread, the API's state, the registry and the tunnel. How it looks in a notebook is
`llmapi_kit.notebook.card`'s business; here it is plain text. The methods may be called from any thread.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from types import TracebackType
from typing import Any

from llmapi_kit.api.app import create_app
from llmapi_kit.api.auth import KeyCheck, new_api_key
from llmapi_kit.api.request_log import RequestLog
from llmapi_kit.api.state import ApiState
from llmapi_kit.client import RemoteServer
from llmapi_kit.client.running_servers import RunningServers, ServerRecord
from llmapi_kit.client.server_keys import ServerKeys
from llmapi_kit.config import Settings
from llmapi_kit.engines.base import Engine
from llmapi_kit.engines.catalog import Catalog
from llmapi_kit.errors import ConfigError, ServerError
from llmapi_kit.loopback import LOOPBACK
from llmapi_kit.server import log_buffer
from llmapi_kit.server.description import describe_server, tunnel_fields
from llmapi_kit.server.endpoint import check_key, warn_of_short_key
from llmapi_kit.server.monitoring import MonitoredServer
from llmapi_kit.server.port import WILDCARDS, network_url
from llmapi_kit.server.public_access import PublicAccess, PublicServer
from llmapi_kit.server.sharing import SharedServer, open_keys
from llmapi_kit.server.thread import ServerThread

logger = logging.getLogger(__name__)

# By name, because it is above this module
CHAT = ("llmapi_kit.notebook.chat.chat", "chat")


class Server(PublicServer, SharedServer, MonitoredServer):
    """A server of this process. `str(server)` shows no key; `server.api_key` is the key.

    Binds its port when it is made and answers after `start`.

    Args:
        engines: who answers; not closed by `stop`.
        host: address to bind.
        port: port to bind; 0 picks a free one.
        api_key: the key that opens it; None for nobody's key, on a loopback address only.
        settings: limits, timeouts and the state folder.
        aliases: further model names; see `llmapi_kit.engines.catalog.Catalog`.
        default: which model answers where none is named; None for the first.
        name: of the launch, which a key is kept for; None keeps none.
        instead_of: a server whose place it takes, at the same host and port: both hold the port, and `take_over` ends
            the old one.

    Attributes:
        api_key: the key that opens it.
        settings: limits, timeouts and the state folder.
        name: of the launch.
        replaced: the models that the latest launch took out of service.
        on_restart: asked before a `restart`; raises what speaks against it.
        on_stop: called when `stop` is done.

    Raises:
        PortInUseError: the port is taken.
        ConfigError: no key, or a short one, on an address that others can reach, or the address can't be bound, or
            there can be no database where the settings say.
        StoreError: the database can't be used.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        *,
        host: str,
        port: int,
        api_key: str | None,
        settings: Settings,
        aliases: Mapping[str, str] | None = None,
        default: str | None = None,
        name: str | None = None,
        instead_of: Server | None = None,
    ) -> None:
        check_key(api_key, host)
        warn_of_short_key(api_key)
        self.name = name
        self.replaced: tuple[str, ...] = ()
        self.api_key = api_key
        self.settings = settings
        self._public = PublicAccess(self._announce, lambda: self._registry.shared(self._state.instance))
        self._lock = threading.RLock()
        self._record_lock = threading.Lock()
        self._logs = log_buffer.install()
        self._is_stopped = False
        self.on_restart: Callable[[], None] = lambda: None
        self.on_stop: Callable[[], None] = lambda: None
        self.host, self.port = host, port
        self._open(Catalog(engines, aliases, default), secrets.token_hex(8), instead_of)
        self._registry = RunningServers(settings)
        record = ServerRecord(self._state.instance, self.url, self.port, tuple(self.models))
        self._record = replace(record, name=name, database=self._store.place)
        # Of two at one port either may get a request that came through the tunnel
        self._allow_hosts(instead_of.public_url if instead_of is not None else None)

    def _open(self, catalog: Catalog, instance: str, instead_of: Server | None = None) -> None:
        """Open the database and bind the port, or share that of a server whose place this one takes."""
        from llmapi_kit.store.store import open_store  # SQLAlchemy, which a cell that only loads a model does without

        store = open_store(self.settings)
        try:
            listener = None
            if instead_of is not None:
                instance = instead_of._state.instance  # to clients and to its tunnel it is the same server
                listener = instead_of._thread.share_listener()
            state = ApiState(catalog, KeyCheck(self.api_key), self.settings, store, instance)
            state.tunnel = lambda: tunnel_fields(self.tunnel_kind, self.tunnel_status())
            self.keys, self._key_watch = open_keys(self, state, lambda work: self._thread.call_soon(work))
            thread: ServerThread = ServerThread(
                create_app(state), host=self.host, port=self.port, listener=listener, on_death=self._on_death
            )
        except BaseException:
            store.close()
            raise
        self._store, self._state, self._thread, self.port = store, state, thread, thread.port
        if self.settings.request_log:
            state.request_log = RequestLog(self._logs.add_request, self.port)

    def start(self) -> None:
        """Answer from now on, and be found by other kernels. On failure, or an interrupt, all is taken back.

        Raises:
            ServerStartError: the server did not come up; the cause is chained.
            ConfigError: the state folder can't be used.
        """
        try:
            self._thread.start(self.settings.start_timeout_s)
            self._key_watch.start()
            self._registry.add(self._record, self.api_key)
        except BaseException:
            self.stop(0)
            raise

    def take_over(self, old: Server, tunnel: str | None) -> None:
        """End the server whose place this one takes, and go on with its tunnel. Blocks while that one drains.

        Args:
            old: that server; what it is answering may finish.
            tunnel: of which kind its tunnel must be to be kept.
        """
        with self._lock, old._lock:
            if self._public.asked_kind is None and self.can_keep_tunnel(old, tunnel):
                self._public.take(old._public)
            elif self._public.asked_kind is None:
                self._allow_hosts()
        old._thread.stop_listening()
        try:
            old.stop()
        finally:
            self._update_record()  # the old one took it away, if they have the instance in common

    def reappear(self) -> None:
        """Be found by other kernels again, after a server that was to take this one's place has failed."""
        self._update_record()

    def rotate_key(self) -> str:
        """Make a new key, and return it. The old one opens nothing any more, and what it is being answered ends.

        The new key is kept for this server's name. Usage and sessions of the old key are no longer to be seen.

        Raises:
            ConfigError: the server has no key, or the state folder can't be written to.
            ServerError: the server does not run.

        Examples:
            >>> server = kit.launch(kit.load("mock"), port=0)
            >>> old = server.api_key
            >>> server.rotate_key() == server.api_key != old
            True
            >>> server.stop()
        """
        with self._lock:
            if self.api_key is None:
                raise ConfigError("The server asks for no key. Launch it without api_key=False to get one.")
            if not self.is_running:
                raise ServerError(f"The server is {self._state_in_words()}.")
            key = new_api_key()
            if self.name is not None:
                ServerKeys(self.settings).replace(self.name, key)
            self._state.key_check = KeyCheck(key, self._state.key_check.ring)
            self.api_key = key
            self._update_record()
            self._thread.call_soon(self._state.fail_refused)
            return key

    @property
    def url(self) -> str:
        """Where it answers on this machine, without ``/v1``."""
        host = {**WILDCARDS, "::1": "[::1]"}.get(self.host, self.host)
        return f"http://{host}:{self.port}"

    @property
    def network_url(self) -> str | None:
        """Where others on the network reach it; None where they don't, or where this machine has no such address."""
        return None if self.host in LOOPBACK else network_url(self.host, self.port)

    @property
    def started_at(self) -> float:
        """When it was launched, as Unix time."""
        return self._record.started_at

    @property
    def base_url(self) -> str:
        """What OpenAI clients take as ``base_url``: public where there is a tunnel."""
        return f"{self.public_url or self.url}/v1"

    @property
    def models(self) -> list[str]:
        """Names of its models, the default first, each with its adapters; `aliases` has those it answers to besides."""
        return [engine.info.id for engine in self._state.catalog.listed()]

    @property
    def aliases(self) -> dict[str, str]:
        """Further names it answers to, each with the model that it stands for."""
        return self._state.catalog.aliases()

    @property
    def key_file(self) -> str | None:
        """The file that holds the key, readable by this user only; None without a key."""
        return None if self.api_key is None else str(self._registry.key_file(self._record))

    @property
    def is_running(self) -> bool:
        """Whether it answers."""
        return not self._is_stopped and self._thread.is_alive

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called. A server that neither runs nor was stopped has died; see `failure`."""
        return self._is_stopped

    @property
    def failure(self) -> BaseException | None:
        """What ended the server's thread, if it died."""
        return self._thread.cause

    def client(self, **options: Any) -> Any:
        """An official OpenAI client for this server, from this machine.

        Examples:
            >>> server = kit.launch(kit.load("mock"), port=0)
            >>> messages = [{"role": "user", "content": "Hello!"}]
            >>> with server.client() as client:
            ...     client.chat.completions.create(model="mock", messages=messages).choices[0].message.content
            'Hello!'
            >>> server.stop()
        """
        return self._remote().client(**options)

    def async_client(self, **options: Any) -> Any:
        """The asynchronous one.

        Examples:
            >>> server = kit.launch(kit.load("mock"), port=0)
            >>> async def names():
            ...     async with server.async_client() as client:
            ...         return [model.id async for model in client.models.list()]
            >>> kit.run(names())
            ['mock']
            >>> server.stop()
        """
        return self._remote().async_client(**options)

    def chat(self, **options: Any) -> Any:
        """A chat with this server in this cell.

        Args:
            options: see `llmapi_kit.chat`.

        Examples:
            >>> server = kit.launch(kit.load("mock"), port=0)
            >>> server.chat().send("Hello!")
            'Hello!'
            >>> server.stop()
        """
        module, name = CHAT
        return getattr(import_module(module), name)(self, **options)

    def replace_engines(
        self, engines: Sequence[Engine], aliases: Mapping[str, str] | None = None, default: str | None = None
    ) -> list[Engine]:
        """Answer new requests with other engines, at the same URL and key; returns those no longer used.

        Requests under way stay with the engine they began on: close it when they are done.
        """
        dropped = self._state.catalog.replace(engines, aliases, default)
        self._update_record(models=tuple(self.models))
        return dropped

    def stop(self, drain_s: float | None = None) -> None:
        """Stop: take nothing new, let running requests finish for a while, end the others with an error.

        Safe to call twice; a second call ends what an interrupted one left. Takes `drain_s` and about three seconds
        more at most, or eight where the database hangs. The models stay loaded, but for those in a cluster.

        Args:
            drain_s: how long running requests may take; None for the setting (30 s).

        Examples:
            >>> server = kit.launch(kit.load("mock"), port=0)
            >>> server.stop(drain_s=0)
            >>> server.is_running
            False
        """
        try:
            self._stop(drain_s)
        finally:
            self.on_stop()  # without the lock, which a launch may wait for

    def restart(self) -> None:
        """Stop, if it runs, and answer again: the same URL, key, models and settings, and a tunnel if there was one.

        Raises:
            ServerError: a model was unloaded meanwhile, or another server has taken its place.
            PortInUseError: another program has taken the port.
            ServerStartError: it did not come up; the cause is chained.
            TunnelError: the tunnel did not open; the server answers without it.

        Examples:
            >>> server = kit.launch(kit.load("mock"), port=0)
            >>> server.stop()
            >>> server.restart()
            >>> server.is_running
            True
            >>> server.stop()
        """
        self.on_restart()
        with self._lock:
            self._check_models()
            tunnel = self._public.asked_kind
            if not self._is_stopped:
                self._stop()
            self._open(self._state.catalog, self._state.instance)
            self._record = replace(self._record, started_at=time.time(), public_url=None)
            self._allow_hosts()
            self._is_stopped = False
            self.start()
            if tunnel is not None:
                self.open_tunnel(tunnel, **self._public.options)

    def _stop(self, drain_s: float | None = None) -> None:
        self._public.give_up_opening()
        with self._lock:
            self._is_stopped = True
            self._state.is_draining = True
            try:
                self.close_tunnel()
                self._drain(self.settings.drain_s if drain_s is None else drain_s)
            finally:  # also when the cell is interrupted while it drains
                self._end()

    def _check_models(self) -> None:
        gone = [engine.info.id for engine in self.engines if not engine.readiness().ready]
        if gone:
            raise ServerError(f"The model {gone[0]!r} was unloaded, so the server can't answer. Launch it again.")

    def _end(self) -> None:
        try:
            self._thread.call_soon(self._state.fail_active)
            if not self._thread.stop():
                logger.warning("The server's thread did not end in time; it is left behind")
        finally:
            self._registry.remove(self._record)
            self._key_watch.stop()
            self._store.close()

    def _on_death(self) -> None:
        """On the dying thread, which may not wait for the lock: nothing may say any more that the server answers."""
        logger.error("The server at %s died: %r", self.url, self.failure)
        self._registry.remove(self._record)
        self._public.abandon()

    def _drain(self, drain_s: float) -> None:
        deadline = time.monotonic() + drain_s
        while self._state.active and self._thread.is_alive and time.monotonic() < deadline:
            time.sleep(0.02)

    def _update_record(self, **changes: Any) -> None:
        with self._record_lock:
            self._record = replace(self._record, **changes)
            if self.is_running:
                self._registry.add(self._record, self.api_key)

    def _remote(self) -> RemoteServer:
        if not self.is_running:
            raise ServerError(f"The server at {self.url} is {self._state_in_words()}. Launch it again.")
        return RemoteServer(self.url, self.api_key)

    def _state_in_words(self) -> str:
        if self.is_running:
            return "running"
        if self.failure is not None:
            return f"dead ({type(self.failure).__name__}: {self.failure})"
        return "stopped" if self._is_stopped else "not started"

    def __enter__(self) -> Server:
        """The server runs until the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return describe_server(
            self._state_in_words(),
            self.url,
            self.api_key,
            self._state.catalog.listed(),
            aliases=self.aliases,
            replaced=self.replaced,
            tunnel=self.tunnel_status(),
            tunnel_kind=self.tunnel_kind,
        )
