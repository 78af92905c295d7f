"""What a cell calls: load, launch, connect. Every function is safe to run again.

Holds the only state of the package that outlives a call: which models this process has loaded and which servers it
runs. Runs in the kernel's main thread; knows nothing of how things look.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Sequence
from typing import Any, Literal

from llmapi_kit.api.auth import check_key_format, new_api_key
from llmapi_kit.client import RemoteServer, normalise_url
from llmapi_kit.config import load_settings
from llmapi_kit.engines.base import Engine
from llmapi_kit.engines.registry import make_engine
from llmapi_kit.errors import ConfigError, PortInUseError, ServerNotFoundError
from llmapi_kit.model import Model
from llmapi_kit.models.spec import parse_spec
from llmapi_kit.server.handle import LOOPBACK, Server
from llmapi_kit.server.registry import Registry, ServerRecord

logger = logging.getLogger(__name__)

Loadable = str | Model | Engine
LOCK_AT_EXIT_S = 2.0
SETTINGS_OF_MODELS = (
    "max_slots",
    "context_length",
    "kv_memory",
    "num_threads",
    "native",
    "compile",
    "step_tokens",
    "max_queue",
    "prefix_cache",
)

_lock = threading.RLock()
_models: dict[tuple[str, str], Model] = {}  # (name, options) to what was loaded
_servers: dict[str, Server] = {}  # by name of the launch


def load(name: str, *, device: str | None = None, dtype: str | None = None, **settings: Any) -> Model:
    """Load a model. The same call again returns the model that is loaded already.

    Args:
        name: ``pocket`` (ships with the kit), ``mock``, a folder with a Hugging Face model, or a hub name such as
            ``Qwen/Qwen3-0.6B``.
        device: ``cpu``, ``cuda`` or ``cuda:0``; the first GPU where there is one.
        dtype: ``float32``, ``bfloat16`` or ``float16``; float32 on a CPU, the model's own on a GPU.
        settings: ``max_slots``, ``context_length``, ``kv_memory``, ``num_threads``, ``native``, ``compile``,
            ``step_tokens``, ``max_queue``, ``prefix_cache``; see `llmapi_kit.config.Settings`.

    Raises:
        ModelNotFoundError: there is no such model.
        ModelLoadError: it does not load, or does not fit.
        UnsupportedModelError: it can't be served, with the reason.
    """
    for setting in settings:
        if setting not in SETTINGS_OF_MODELS:
            raise ConfigError(
                f"load() has no argument {setting!r}. It takes device, dtype, {', '.join(SETTINGS_OF_MODELS)}."
            )
    options = {key: value for key, value in {"device": device, "dtype": dtype}.items() if value is not None}
    key = name, repr(sorted({**options, **settings}.items()))
    with _lock:
        known = _models.get(key)
        if known is not None and not known.is_closed:
            if known.engine.readiness().ready:
                return known
            known.close()  # its engine died or hangs; two would not fit where one is large
        started = time.perf_counter()
        engine = make_engine(parse_spec(name), load_settings(**settings), **options)
        model = Model(engine, time.perf_counter() - started)
        _models[key] = model
        return model


def launch(
    model: Loadable | Sequence[Loadable],
    *,
    port: int = 8000,
    host: str = "127.0.0.1",
    tunnel: str | None = None,
    tunnel_options: dict[str, Any] | None = None,
    api_key: str | Literal[False] | None = None,
    name: str | None = None,
    **settings: Any,
) -> Server:
    """Serve a model from a background thread of this process; returns when it answers.

    Running the cell again keeps URL and key: a server that runs under the same name and place goes on with the new
    model; what the old model is answering may finish for ``drain_s`` and then ends in an error, and the old model is
    unloaded. So may other settings be given: the server starts again at the same port with the same key. Use another
    `port` or `name` for a second server. After `Server.stop`, a launch makes a new key.

    Args:
        model: what `load` returned, a name to load, an engine, or a list of these; the first is the default.
        port: 0 picks a free one.
        host: address to bind; anything but loopback can be reached from the network.
        tunnel: ``ngrok`` for a public URL.
        tunnel_options: fields of `llmapi_kit.tunnels.base.TunnelSettings`, such as ``auth_token`` or ``domain``.
        api_key: the key to ask for; None makes a random one. False asks for none, without tunnel and on loopback
            only.
        name: tells servers of this process apart; the port unless given.
        settings: limits and timeouts; see `llmapi_kit.config.Settings`.

    Raises:
        PortInUseError: another program, or another kernel's server, has the port.
        ServerStartError: the server did not come up; the cause is chained.
        TunnelError: the tunnel did not open; a server that this call started is stopped again.
        ConfigError: arguments that do not go together.
    """
    if api_key is False and (tunnel or host not in LOOPBACK):
        raise ConfigError("api_key=False works on this machine only: no tunnel, no other host than 127.0.0.1.")
    if isinstance(api_key, str):
        check_key_format(api_key)
    limits = load_settings(**settings)
    loadables = [model] if isinstance(model, str | Model) or not isinstance(model, Sequence) else list(model)
    engines = [_engine(each) for each in loadables]
    with _lock:
        _forget_stopped()
        identity = name or str(port)
        old = _servers.get(identity)
        key = None if api_key is False else api_key or (old.api_key if old else None) or new_api_key()
        if old is not None:
            is_same = (old.host, old.api_key, old.settings) == (host, key, limits) and port in (0, old.port)
            if is_same and old.is_running:
                _unload(old.replace_engines(engines), limits.drain_s)
                _match_tunnel(old, tunnel, tunnel_options)
                return old
            _stop(identity, old, keep=engines)
            port = port or old.port
        try:
            server = Server(engines, host=host, port=port, api_key=key, settings=limits)
        except PortInUseError as exc:
            raise _explain_port(exc, port) from exc.__cause__
        _servers[identity] = server
        try:
            server.start()
            _match_tunnel(server, tunnel, tunnel_options)
        except BaseException:
            _stop(identity, server, keep=engines, drain_s=0)
            raise
        return server


def connect(url: str | None = None, api_key: str | None = None) -> RemoteServer:
    """Connect to a running server: by URL and key, or the newest one on this machine.

    Args:
        url: with or without ``/v1``; None looks in the registry of this machine's servers.
        api_key: its key; for a server of this machine it is found in the registry, else in ``LLMAPI_KIT_API_KEY``.

    Raises:
        ServerNotFoundError: nothing runs, or nothing answers at the url.
        AuthenticationError: the key is missing or refused.
        ConfigError: the url is none.
    """
    registry = Registry(load_settings())
    records = registry.running()
    if url is None:
        return _newest(records, registry, api_key)
    place = normalise_url(url)
    names = (place, place.replace("://localhost:", "://127.0.0.1:"))
    found = next((record for record in records if record.url in names or record.public_url == place), None)
    key = api_key or (registry.key(found) if found else None) or os.environ.get("LLMAPI_KIT_API_KEY")
    remote = RemoteServer(place, key)
    remote.check(found.instance if found and api_key is None else None)
    return remote


def servers() -> list[ServerRecord]:
    """The servers that run on this machine for this user, the newest first."""
    return Registry(load_settings()).running()


def stop_all(drain_s: float = 0.0) -> None:
    """Stop every server of this process and unload every model."""
    with _lock:
        for identity, server in list(_servers.items()):
            _stop(identity, server, keep=(), drain_s=drain_s)
        for model in _models.values():
            model.close()
        _models.clear()


def _engine(loadable: Loadable) -> Engine:
    if isinstance(loadable, str):
        return load(loadable).engine
    if isinstance(loadable, Model):
        if loadable.is_closed:
            raise ConfigError(f"The model {loadable.name!r} was closed. Load it again: kit.load({loadable.name!r}).")
        return loadable.engine
    if isinstance(loadable, Engine):
        return loadable
    raise ConfigError(
        f"launch() takes a model's name, what load() returned, or an engine, not {type(loadable).__name__}."
    )


def _newest(records: Sequence[ServerRecord], registry: Registry, api_key: str | None) -> RemoteServer:
    """The newest server that answers."""
    problem = ServerNotFoundError(
        "No server of llmapi_kit runs on this machine. Launch one (notebook 03, or 'llmapi-kit serve'), or pass url "
        "and api_key."
    )
    for record in records:
        remote = RemoteServer(record.url, api_key or registry.key(record))
        try:
            remote.check(record.instance)
            return remote
        except ServerNotFoundError as exc:
            problem = exc
    raise problem


def _forget_stopped() -> None:
    for identity, server in list(_servers.items()):
        if server.is_stopped:
            del _servers[identity]


def _stop(identity: str, server: Server, *, keep: Sequence[Engine], drain_s: float | None = None) -> None:
    server.stop(drain_s)
    if _servers.get(identity) is server:
        del _servers[identity]
    kept = {id(engine) for engine in keep}
    _unload([engine for engine in server.engines if id(engine) not in kept])


def _unload(engines: Sequence[Engine], drain_s: float = 0.0) -> None:
    """Close engines that `load` made and no server uses any more, and give their memory back.

    Args:
        engines: those that a server no longer answers with; whoever made one by hand keeps it.
        drain_s: how long they may finish what they are answering.
    """
    _forget_stopped()
    used = {id(engine) for server in _servers.values() for engine in server.engines}
    dropped = {id(engine) for engine in engines} - used
    models = {key: model for key, model in _models.items() if id(model.engine) in dropped}
    try:
        deadline = time.monotonic() + drain_s
        while any(_is_busy(model.engine) for model in models.values()) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:  # also when the cell is interrupted meanwhile
        for key, model in models.items():
            num_bytes = model.close()
            del _models[key]
            logger.info("Unloaded %s; %.2f GB of GPU memory given back", model.name, num_bytes / 1e9)


def _is_busy(engine: Engine) -> bool:
    stats = engine.stats()
    return stats.num_running + stats.num_queued > 0


def _match_tunnel(server: Server, tunnel: str | None, options: dict[str, Any] | None) -> None:
    """Open, keep or close the tunnel, as asked for."""
    if tunnel is None:
        server.close_tunnel()
    elif server.public_url is None or server.tunnel_kind != tunnel:
        server.open_tunnel(tunnel, **(options or {}))


def _explain_port(error: PortInUseError, port: int) -> PortInUseError:
    """Say so when the program on the port is another kernel's server."""
    record = next((r for r in servers() if r.port == port), None)
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


def _stop_at_exit(pid: int) -> None:
    """Not in a forked child, whose servers are its parent's; and no thread that loads a model holds up the end."""
    if os.getpid() == pid and _lock.acquire(timeout=LOCK_AT_EXIT_S):
        stop_all()


atexit.register(_stop_at_exit, os.getpid())
