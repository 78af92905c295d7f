"""What a cell calls: load, launch, serve_engine, connect. Every function is safe to run again.

Holds the only state of the package that outlives a call: which models this process has loaded and which servers it
runs. Runs in the kernel's main thread; knows nothing of how things look.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, overload

from typing_extensions import Unpack

from llmapi_kit import tables
from llmapi_kit.api.auth import new_api_key
from llmapi_kit.checkpoints.choice import Choice
from llmapi_kit.client import RemoteServer, normalise_url
from llmapi_kit.client.running_servers import RunningServers, ServerRecord
from llmapi_kit.client.server_keys import ServerKeys
from llmapi_kit.config import Settings, load_settings
from llmapi_kit.engines.base import Engine
from llmapi_kit.engines.engine_check import check_engine
from llmapi_kit.errors import ConfigError, PortInUseError, ServerError, ServerNotFoundError
from llmapi_kit.loading.load_request import LoadRequest, resolve
from llmapi_kit.loading.loaded_models import LoadedModels
from llmapi_kit.loading.loader import ModelLoader
from llmapi_kit.loading.model import Model
from llmapi_kit.loading.options import (
    EmbeddingOptions,
    LaunchSettings,
    LoadOptions,
    check_launch_settings,
    showing,
    showing_those_of,
)
from llmapi_kit.loading.servable import Loadable, Servable, resolve_all
from llmapi_kit.places import tunnel_policy
from llmapi_kit.presenter import launches, loads
from llmapi_kit.progress import report
from llmapi_kit.server.endpoint import Endpoint
from llmapi_kit.server.port import DEFAULT_PORT, pick_port
from llmapi_kit.server.server import Server

logger = logging.getLogger(__name__)

LOCK_AT_EXIT_S = 2.0

SERVER_COLUMNS: tables.Columns = {
    "url": ("URL", tables.text),
    "models": ("Models", tables.names),
    "public_url": ("Public URL", tables.text),
    "pid": ("Process", tables.text),
    "started_at": ("Launched", tables.moment),
}

_lock = threading.RLock()
_models = LoadedModels(_lock)
_servers: dict[str, Server] = {}  # by name of the launch


@overload
def load(
    name: str | os.PathLike[str] | ModelLoader | Choice,
    *,
    served_name: str | None = None,
    lazy: bool = False,
    **options: Unpack[LoadOptions],
) -> Model: ...
@overload
def load(
    name: str | os.PathLike[str] | ModelLoader | Choice,
    *,
    served_name: str | None = None,
    lazy: bool = False,
    **options: Any,
) -> Model: ...
@showing(LoadOptions, also="options")
@loads
def load(
    name: str | os.PathLike[str] | ModelLoader | Choice,
    *,
    served_name: str | None = None,
    lazy: bool = False,
    **options: Any,
) -> Model:
    """Load a model. The same call again returns the model that is loaded already.

    Args:
        name: ``pocket``, ``pocket-vision`` and ``pocket-embed`` (ship with the kit), ``mock``, a folder with a Hugging
            Face model, a GGUF file, a hub name such as ``Qwen/Qwen3-0.6B``, a GGUF file of the hub such as
            ``hf:owner/name:Q4_K_M``, a provider's model such as ``openai:gpt-…``, ``ollama:llama3.2`` or ``openai+https://host/v1#model``,
            ``plugin:name`` for a back end that another package brings, or a loader of your own: see
            `llmapi_kit.loading.loader.ModelLoader`. A `pathlib.Path` is a folder or a file. What `choose` returned
            stands for its name and options.
        served_name: what clients pass as ``model``; the model's own name unless given.
        lazy: return at once, and load it when it is first asked something.
        options: all of them are looked at before anything is loaded. For every model: ``fallback`` (a name, what
            `load` returned, an engine, or a list of these: who answers when this one can't). For models that run here:
            ``process`` (True: in a process of its own, which a busy cell slows less, whose crash ends no kernel and
            whose end gives all memory back), ``replicas`` (that many such processes share the requests), ``devices``
            (such as ``[0, 1]``: a replica on each of these GPUs), ``tensor_parallel`` (divide it over that many
            processes, each on a GPU of its own), ``device_map`` (such as ``auto``: its layers on several GPUs, in one
            process), ``step_timeout_s`` (how long a step may take in a process of its own), ``device`` (``cpu``,
            ``cuda`` or ``cuda:0``; the first GPU where there is one), ``dtype``
            (``float32``, ``bfloat16`` or ``float16``; the model's own on a GPU; on a CPU float32, or bfloat16 where
            that would double many weights), ``revision`` and ``subfolder`` (of a hub model: a
            branch, a tag or a commit; where in the repository it is), ``trust_remote_code`` (True: run code that comes
            with it, as you; of a hub model only with a commit as ``revision``), ``lora`` (a
            folder or a hub name: an adapter that is merged into the weights; or several, as a list or by name: each is
            served beside the model as ``model:name``, see `Model.adapters`), ``tokenizer`` (a folder or a hub name, for
            another than the merged adapter's or the model's), ``quantize`` (``int8`` or ``int4`` on a CPU, ``8bit`` or
            ``4bit`` on a GPU), ``kv_cache_dtype`` (on a CPU: ``float32``, ``bfloat16`` or ``int8``), ``sampling`` (such
            as ``{"temperature": 0.7}``, where a request does not say) and settings of the engine: ``max_slots``,
            ``context_length``, ``kv_memory``, ``num_threads``, ``native``, ``compile``, ``step_tokens``,
            ``default_max_tokens``, ``max_queue``, ``prefix_cache``, ``draft`` (``prompt-lookup``, or a small model that
            writes on ahead), ``draft_tokens``, ``download_stall_s``. For a GGUF file,
            in place of ``dtype``, ``quantize`` and ``tokenizer``: ``n_gpu_layers``, ``flash_attn``, ``kv_cache_dtype``
            (such as ``q8_0``), ``use_mmap``, ``use_mlock``, ``rope_scaling``, ``rope_freq_base``, ``rope_freq_scale``,
            ``mmproj`` (the file for pictures; the one beside the model unless given, and False for none), ``isolate``
            (compute in a process of its own, as in notebooks it does); ``lora`` is a GGUF file there. For
            an embedding model or a reranker, see `load_embeddings`: ``pooling``, ``normalize``, ``prompts``,
            ``default_prompt_name``, ``matryoshka_dimensions``. For a provider's model:
            ``api_key`` (one or several; its environment variable unless given), ``base_url``, ``sampling``, and
            settings: ``first_token_timeout_s``, ``upstream_connect_s``, ``upstream_answer_s``, ``upstream_silence_s``,
            ``upstream_retries``, ``upstream_retry_s``. See `llmapi_kit.config.Settings` for the settings. Back ends
            that other packages bring have options of their own.

    Raises:
        ModelNotFoundError: there is no such model, adapter or tokenizer.
        ModelLoadError: it does not load, or does not fit.
        UnsupportedModelError: it can't be served, with the reason.
        ConfigError: an argument is not known, or has a value that can't be used.
        MissingDependencyError: a package that it needs is not installed.

    No other exception comes out of a model's files, whatever they are.

    Examples:
        >>> model = kit.load("mock")
        >>> model.ask("Hello!")
        'Hello!'
    """
    return _models.load(resolve(name, served_name, options), is_lazy=lazy)


@showing(EmbeddingOptions)
@loads
def load_embeddings(
    name: str | os.PathLike[str],
    *,
    served_name: str | None = None,
    lazy: bool = False,
    **options: Unpack[EmbeddingOptions],
) -> Model:
    """Load an embedding model or a reranker, to be served beside a chat model.

    `load` does the same where a model can be nothing else by its files or its name. This one also takes a language
    model for the vectors of its states.

    Args:
        name: ``pocket-embed`` (ships with the kit), a folder, or a hub name such as ``BAAI/bge-small-zh-v1.5``: a model
            of sentence-transformers or model2vec, an encoder or decoder of transformers, or a reranker (a model that
            classifies sequences by one label).
        served_name: see `load`.
        lazy: see `load`.
        options: ``device`` and ``dtype`` as for `load`; in place of what the folder says: ``pooling`` (``mean``,
            ``cls``, ``lasttoken``, ``max``, ``mean_sqrt_len_tokens`` or ``weightedmean``), ``normalize`` (whether
            vectors have length 1), ``prompts`` (a dictionary of texts that a request's ``prompt_name`` puts before its
            inputs), ``default_prompt_name``, ``matryoshka_dimensions`` (lengths that vectors may be cut to);
            ``fallback``; and the settings ``context_length`` (tokens that an input may have), ``num_threads``,
            ``max_queue``, ``download_stall_s``.

    Raises:
        ModelNotFoundError: there is no such model.
        ModelLoadError: it does not load, or does not fit.
        UnsupportedModelError: it has pickle weights only, code of its own, or a part that is not known.
        ConfigError: an argument is not known, or has a value that can't be used.
        MissingDependencyError: a package that it needs is not installed.

    Examples:
        >>> model = kit.load_embeddings("pocket-embed")
        >>> vectors = model.embed(["The dog runs.", "A cat sleeps."])
        >>> len(vectors), len(vectors[0])
        (2, 128)
    """
    given: dict[str, Any] = dict(options)
    return _models.load(resolve(name, served_name, given, is_embedding=True), is_lazy=lazy)


@showing(LaunchSettings)
@launches
def launch(
    model: Loadable | Sequence[Loadable],
    *,
    port: int | None = None,
    host: str = "127.0.0.1",
    share: bool = False,
    tunnel: str | None = None,
    tunnel_options: dict[str, Any] | None = None,
    api_key: str | Literal[False] | None = None,
    name: str | None = None,
    aliases: Mapping[str, str] | None = None,
    default: str | None = None,
    cluster: str | None = None,
    replicas: int | Mapping[str, Any] | None = None,
    **settings: Unpack[LaunchSettings],
) -> Server:
    """Serve models from a background thread of this process; returns when it answers.

    Of several models, those given by name are loaded when they are first asked for, one at a time, and unloaded when
    they are idle for ``idle_unload_s`` or when another one needs the memory. A single one is loaded at once.

    In a notebook its card appears, after the steps of loading. In a ``with`` statement the block's end stops it.

    Running the cell again keeps URL and key: a server that runs under the same name goes on with the new model, and
    says which it replaced; what the old model is answering may finish for ``drain_s`` and then ends in an error, and
    the old model is unloaded. So may other settings be given: a server with those takes the place of the old one, at
    the same port with the same key. A launch that fails leaves the server before it as it was. Use another `port` or
    `name` for a second server; ``port=0`` is one name, too.

    A random key is kept for the server's name on this machine, in a file of this user's, and is the same after
    `Server.stop` and in a new kernel, until `Server.rotate_key`.

    Args:
        model: what `load` returned, what `load` takes, an engine, or a list of these; the first is the default.
        port: 8000 unless given, or the next one that is free; 0 picks any free one.
        host: address to bind; anything but loopback can be reached from the network.
        share: True for a public URL through the first kind of tunnel that works: `Server.tunnel_kind` says which. The
            same as ``tunnel="auto"``; what the host's rules say about tunnels is logged.
        tunnel: a kind of your choice: ``ngrok`` (its token is found in the environment or in Colab's or Kaggle's
            secrets, as ``NGROK_AUTHTOKEN``, or asked for), ``cloudflared``, ``ssh`` (a host of your own),
            ``localhost.run``, ``pinggy``, ``serveo`` or ``auto``. The link is watched, and opened again when it dies.
        tunnel_options: fields of `llmapi_kit.tunnels.base.TunnelSettings`, such as ``auth_token``, ``domain`` or
            ``host``.
        api_key: the key to ask for; None takes the one that is kept for the name. One of fewer than 16 characters is
            for loopback without a tunnel. So is False, which asks for none.
        name: tells servers of this process apart; the port unless given.
        aliases: further names to answer to, each with the model that it stands for; they are listed as models too.
        default: the model that answers where none is named, if not the first.
        cluster: have the models, given by name, run in a Ray cluster: ``auto`` (the one that RAY_ADDRESS names or that
            runs on this machine; one is started here where there is none), ``local`` (one is started here), or an
            address such as ``ray://head:10001``. This process serves the API; `Server.stop` ends the models there.
        replicas: with `cluster`, how many of each model: a number, or a dictionary of ``min``, ``max`` (more are
            started under load, and end without), ``num_cpus`` and ``num_gpus`` (what each takes).
        settings: limits and timeouts; see `llmapi_kit.config.Settings`. Those of models, such as ``max_slots``, go to
            the models given by name.

    Raises:
        PortInUseError: another program, or another kernel's server, has the port.
        ServerStartError: the server did not come up; the cause is chained.
        TunnelError: the tunnel did not open.
        ConfigError: arguments that do not go together.
        ModelError: a model can't be loaded; of several, a name means nothing.

    What can be told before a model is loaded, `check_launch` tells then.

    Examples:
        >>> server = kit.launch(kit.load("mock"), port=0)
        >>> server.models
        ['mock']
        >>> server.stop()
    """
    check_launch_settings(settings)
    if not isinstance(share, bool):
        raise ConfigError(f"share is {share!r}; it is True or False. A kind of tunnel is named with tunnel=….")
    tunnel = tunnel or ("auto" if share else None)
    limits = load_settings(**settings)
    place = Endpoint(host=host, port=port, api_key=api_key, tunnel=tunnel, tunnel_options=tunnel_options or {})
    wanted = check_launch(model, place, name=name, aliases=aliases, default=default, settings=settings)
    if cluster is not None or replicas is not None:
        from llmapi_kit.cluster.placement import all_in_cluster  # most launches do without

        wanted = all_in_cluster(wanted, cluster, replicas, limits)
    if tunnel is not None and (rule := tunnel_policy()) is not None:
        logger.warning(rule)
    engines = _engines(wanted, limits, is_elsewhere=cluster is not None)
    with _lock:
        _forget_stopped()
        identity = _identity(name, port)
        old = _servers.get(identity)
        key = None if api_key is False else api_key or (old.api_key if old else None)
        if key is None and api_key is not False:
            key = ServerKeys(limits).key(identity, new_api_key)
        before = old.models if old is not None else []
        is_same = old is not None and (old.host, old.api_key, old.settings) == (host, key, limits)
        if old is not None and is_same and old.is_running and port in (0, None, old.port):
            old.match_tunnel(tunnel, tunnel_options or {})  # first, as it may fail, and then all is as it was
            old.on_stop = _end_of(engines if cluster is not None else ())
            _unload(old.replace_engines(engines, aliases, default), limits.drain_s)
            return _say_what_is_replaced(old, before)
        where = _port(port, host, old)
        in_place = old if old is not None and old.is_running and (old.host, old.port) == (host, where) else None
        if old is not None and in_place is None and old.port == where:
            old.stop()  # it is dead, or at another address that does not go together with the new one
        try:
            server = Server(
                engines,
                host=host,
                port=where,
                api_key=key,
                settings=limits,
                aliases=aliases,
                default=default,
                name=identity,
                instead_of=in_place,
            )
        except PortInUseError as exc:
            raise _explain_port(exc, where) from exc.__cause__
        server.on_restart = partial(_take_place, identity, weakref.ref(server))
        server.on_stop = _end_of(engines if cluster is not None else ())
        report("starting the server")
        _bring_up(server, old, tunnel, tunnel_options)
        _servers[identity] = server
        if old is not None:
            _end(old, server, tunnel)
        return _say_what_is_replaced(server, before)


def check_launch(
    model: Loadable | Sequence[Loadable],
    place: Endpoint,
    *,
    options: Mapping[str, Any] | None = None,
    name: str | None = None,
    aliases: Mapping[str, str] | None = None,
    default: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> list[Servable]:
    """Raise what `launch` would, as far as that can be told before a model is loaded; starts nothing.

    Args:
        model: see `launch`.
        place: where the server is to answer.
        options: what `load` is to be given for models that are named here.
        name: of the server.
        aliases: see `launch`.
        default: see `launch`.
        settings: see `launch`.

    Returns:
        What is there of the models, and what is to be loaded.
    """
    given = settings or {}
    limits = load_settings(**given)
    found = resolve_all(model, options=options or {}, settings=given, aliases=aliases, default=default)
    with _lock:
        _forget_stopped()
        old = _servers.get(_identity(name, place.port))
        is_held = old is not None and old.is_running and place.port in (0, None, old.port)
        key = old.api_key if old is not None and place.api_key is None else place.api_key
        try:
            replace(place, api_key=key).check(limits, is_held=is_held)
        except PortInUseError as exc:
            raise _explain_port(exc, place.port or 0) from exc.__cause__
    return found


@showing_those_of(launch)
def serve_engine(engine: Engine, **options: Any) -> Server:
    """Serve an engine of your own; see `launch` for the options, and ``docs/backends.md`` for how to write one.

    It is checked first, and stays yours: whoever made it closes it.

    Raises:
        ConfigError: it lacks something that an engine has; the message names it all.

    Examples:
        >>> from llmapi_kit.engines.mock import MockEngine
        >>> server = kit.serve_engine(MockEngine(reply="Always this.", name="mine"), port=0)
        >>> server.models
        ['mine']
        >>> server.stop()
    """
    check_engine(engine)
    return launch(engine, **options)


def connect(url: str | None = None, api_key: str | None = None) -> RemoteServer:
    """Connect to a running server: by URL and key, or the newest one on this machine.

    Args:
        url: with or without ``/v1``; None looks in the registry of this machine's servers.
        api_key: its key; for a server of this machine it is found in the registry, else in ``LLMAPI_KIT_API_KEY``.

    Raises:
        ServerNotFoundError: nothing runs, or nothing answers at the url.
        AuthenticationError: the key is missing or refused.
        ConfigError: the url is none.

    Examples:
        >>> server = kit.launch(kit.load("mock"), port=0)
        >>> remote = kit.connect()
        >>> remote.models()
        ['mock']
        >>> server.stop()
    """
    registry = RunningServers(load_settings())
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


def servers() -> tables.Table[ServerRecord]:
    """The servers that run on this machine for this user, the newest first: a list, and a table in a cell.

    Examples:
        >>> server = kit.launch(kit.load("mock"), port=0)
        >>> [record.models for record in kit.servers()]
        [('mock',)]
        >>> server.stop()
    """
    found = RunningServers(load_settings()).running()
    return tables.Table(found, SERVER_COLUMNS, empty="No server of llmapi_kit runs on this machine.")


def own_servers() -> list[Server]:
    """The servers that run in this process, the oldest first."""
    with _lock:
        _forget_stopped()
        return list(_servers.values())


def stop_all(drain_s: float = 0.0) -> None:
    """Stop every server of this process and unload every model.

    Examples:
        >>> server = kit.launch(kit.load("mock"), port=0)
        >>> kit.stop_all()
        >>> server.is_running
        False
    """
    with _lock:
        for identity, server in list(_servers.items()):
            _stop(identity, server, drain_s)
        _models.close_all()


def _identity(name: str | None, port: int | None) -> str:
    """What a launch is told apart by in this process, and its key is kept for on this machine."""
    return name or str(DEFAULT_PORT if port is None else port)


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


def _bring_up(server: Server, old: Server | None, tunnel: str | None, options: dict[str, Any] | None) -> None:
    """Start a server, with its tunnel; if that fails, the one before it goes on as it was."""
    try:
        server.start()
        if old is None or not server.can_keep_tunnel(old, tunnel):
            server.match_tunnel(tunnel, options or {})
    except BaseException:
        server.stop(0)
        if old is not None and old.is_running:
            old.reappear()
        raise


def _end(old: Server, server: Server, tunnel: str | None) -> None:
    """End a server whose place another one took, and unload what only it answered with."""
    kept = {id(engine) for engine in server.engines}
    try:
        server.take_over(old, tunnel)
    finally:  # also when the cell is interrupted meanwhile
        _unload([engine for engine in old.engines if id(engine) not in kept])


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


def _engines(wanted: Sequence[Servable], limits: Settings, *, is_elsewhere: bool) -> list[Engine]:
    """The engines of what `launch` was given; of several models that are loaded here, those given by name later."""
    is_lazy = len(wanted) > 1 and not is_elsewhere
    there = [
        _models.load(each, is_lazy=is_lazy, settings=limits) if isinstance(each, LoadRequest) else each
        for each in wanted
    ]
    return [each.engine if isinstance(each, Model) else each for each in there]


def _end_of(engines: Sequence[Engine]) -> Callable[[], None]:
    """What to do when a server has stopped: its models in a cluster have nobody left who could ask them."""

    def end() -> None:
        with _lock:
            _unload(engines)

    return end


def _newest(records: Sequence[ServerRecord], registry: RunningServers, api_key: str | None) -> RemoteServer:
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


def _take_place(identity: str, again: weakref.ref[Server]) -> None:
    """Have a server that starts again be this process's one of its name."""
    server = again()
    if server is None:
        return
    with _lock:
        if _servers.get(identity) is not server:
            _forget_stopped()
        other = _servers.setdefault(identity, server)
        if other is not server:
            raise ServerError(f"Another server of this notebook, at {other.url}, has taken this one's place. Use that.")


def _forget_stopped() -> None:
    for identity, server in list(_servers.items()):
        if server.is_stopped:
            del _servers[identity]


def _stop(identity: str, server: Server, drain_s: float) -> None:
    server.stop(drain_s)
    if _servers.get(identity) is server:
        del _servers[identity]
    _unload(server.engines)


def _unload(engines: Sequence[Engine], drain_s: float = 0.0) -> None:
    """Close engines that `load` made and no server uses any more; see `LoadedModels.unload`."""
    _forget_stopped()
    _models.unload(engines, {id(engine) for server in _servers.values() for engine in server.engines}, drain_s)


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
