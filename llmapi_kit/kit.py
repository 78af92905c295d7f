"""What a cell calls: load, launch, serve_engine, connect. Every function is safe to run again.

The public face: arguments and what they mean. What outlives a call is in `llmapi_kit.own_servers`. Runs in the
kernel's main thread; knows nothing of how things look.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

from typing_extensions import Unpack

from llmapi_kit import tables
from llmapi_kit.checkpoints.choice import Choice
from llmapi_kit.client import RemoteServer, normalise_url
from llmapi_kit.client.running_servers import RunningServers, ServerRecord
from llmapi_kit.config import KEY_VARIABLE, load_settings
from llmapi_kit.engines.base import Engine
from llmapi_kit.engines.engine_check import check_engine
from llmapi_kit.errors import ConfigError, ServerNotFoundError
from llmapi_kit.loading.load_request import resolve
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
from llmapi_kit.own_servers import Launch, OwnServers
from llmapi_kit.places import tunnel_policy
from llmapi_kit.presenter import launches, loads
from llmapi_kit.server.endpoint import Endpoint
from llmapi_kit.server.server import Server

logger = logging.getLogger(__name__)

SERVER_COLUMNS: tables.Columns = {
    "url": ("URL", tables.text),
    "models": ("Models", tables.names),
    "public_url": ("Public URL", tables.text),
    "pid": ("Process", tables.text),
    "started_at": ("Launched", tables.moment),
}

_own = OwnServers()


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
        name: ``pocket``, ``pocket-vision`` or ``pocket-embed`` (they ship with the kit), ``mock``, a folder with a
            Hugging Face model, a GGUF file, a hub name such as ``Qwen/Qwen3-0.6B``, a GGUF file of the hub such as
            ``hf:owner/name:Q4_K_M``, a provider's model such as ``openai:gpt-…``, ``ollama:llama3.2`` or
            ``openai+https://host/v1#model``, ``plugin:name`` for a back end that another package brings, or a loader of
            your own: see `llmapi_kit.loading.loader.ModelLoader`. A `pathlib.Path` is a folder or a file. What `choose`
            returned stands for its name and options.
        served_name: what clients pass as ``model``; the model's own name unless given.
        lazy: return at once, and load it when it is first asked something.
        options: see below. All of them are checked before anything is loaded.

    Options of every model:

    - ``fallback``: who answers when this one can't: a name, what `load` returned, an engine, or a list of these.

    Options of models that run here:

    - ``device``: ``cpu``, ``cuda`` or ``cuda:0``; the first GPU where there is one.
    - ``dtype``: ``float32``, ``bfloat16`` or ``float16``. The model's own on a GPU; on a CPU float32, or bfloat16 where
      that would double many weights.
    - ``quantize``: ``int8`` or ``int4`` on a CPU, ``8bit`` or ``4bit`` on a GPU.
    - ``kv_cache_dtype``: number format of keys and values on a CPU: ``float32``, ``bfloat16`` or ``int8``.
    - ``lora``: a folder or a hub name of an adapter to merge into the weights; or several, as a list or by name, each
      served beside the model as ``model:name``, see `Model.adapters`.
    - ``tokenizer``: a folder or a hub name, for another one than the merged adapter's or the model's.
    - ``sampling``: what holds where a request does not say, such as ``{"temperature": 0.7}``.
    - ``revision``, ``subfolder``: of a hub model: a branch, a tag or a commit; where in the repository it is.
    - ``trust_remote_code``: True runs code that comes with the model, as you; of a hub model only with a commit as
      ``revision``.
    - ``draft``, ``draft_tokens``: ``prompt-lookup``, or a small model that writes on ahead; how many tokens at most.
    - ``max_slots``, ``context_length``, ``kv_memory``, ``num_threads``, ``native``, ``compile``, ``step_tokens``,
      ``default_max_tokens``, ``max_queue``, ``prefix_cache``, ``download_stall_s``: settings of the engine, see
      `llmapi_kit.config.Settings`.

    Options for where they run:

    - ``process``: True for a process of its own, which a busy cell slows less, whose crash does not end the kernel, and
      whose end gives all memory back.
    - ``replicas``: that many such processes, which share the requests.
    - ``devices``: such as ``[0, 1]``: a replica on each of these GPUs.
    - ``tensor_parallel``: divide the model over that many processes, each on a GPU of its own.
    - ``device_map``: such as ``auto``: put its layers on several GPUs, in one process.
    - ``step_timeout_s``: how long a step may take in a process of its own.

    Options of GGUF files, in place of ``dtype``, ``quantize`` and ``tokenizer``:

    - ``n_gpu_layers``, ``flash_attn``, ``kv_cache_dtype`` (such as ``q8_0``), ``use_mmap``, ``use_mlock``,
      ``rope_scaling``, ``rope_freq_base``, ``rope_freq_scale``: as in llama.cpp.
    - ``mmproj``: the file for pictures; the one beside the model unless given, and False for none.
    - ``isolate``: compute in a process of its own; so it is in notebooks unless given.
    - ``lora``: a GGUF file, or several by name.

    Options of embedding models and rerankers: ``pooling``, ``normalize``, ``prompts``, ``default_prompt_name``,
    ``matryoshka_dimensions``; see `load_embeddings`.

    Options of a provider's model:

    - ``api_key``: one key or several; its environment variable unless given.
    - ``base_url``: where it answers.
    - ``sampling``: as above.
    - ``first_token_timeout_s``, ``upstream_connect_s``, ``upstream_answer_s``, ``upstream_silence_s``,
      ``upstream_retries``, ``upstream_retry_s``: see `llmapi_kit.config.Settings`.

    Back ends that other packages bring have options of their own.

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
    return _own.models.load(resolve(name, served_name, options), is_lazy=lazy)


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
    return _own.models.load(resolve(name, served_name, given, is_embedding=True), is_lazy=lazy)


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
    endpoint = Endpoint(host=host, port=port, api_key=api_key, tunnel=tunnel, tunnel_options=tunnel_options or {})
    servables = check_launch(model, endpoint, name=name, aliases=aliases, default=default, settings=settings)
    if cluster is not None or replicas is not None:
        from llmapi_kit.cluster.placement import all_in_cluster  # most launches do without

        servables = all_in_cluster(servables, cluster, replicas, limits)
    if tunnel is not None and (rule := tunnel_policy()) is not None:
        logger.warning(rule)
    wanted = Launch(
        endpoint=endpoint,
        settings=limits,
        name=name,
        aliases=aliases,
        default=default,
        ends_its_models=cluster is not None,
    )
    return _own.launch(_own.engines(servables, wanted), wanted)


def check_launch(
    model: Loadable | Sequence[Loadable],
    endpoint: Endpoint,
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
        endpoint: where the server is to answer.
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
    _own.check(Launch(endpoint=endpoint, settings=limits, name=name))
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
        ConfigError: the URL is not valid.

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
    address = normalise_url(url)
    names = (address, address.replace("://localhost:", "://127.0.0.1:"))
    found = next((record for record in records if record.url in names or record.public_url == address), None)
    key = api_key or (registry.key(found) if found else None) or os.environ.get(KEY_VARIABLE)
    remote = RemoteServer(address, key)
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
    return _own.running()


def stop_all(drain_s: float = 0.0) -> None:
    """Stop every server of this process and unload every model.

    Examples:
        >>> server = kit.launch(kit.load("mock"), port=0)
        >>> kit.stop_all()
        >>> server.is_running
        False
    """
    _own.stop_all(drain_s)


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


atexit.register(_own.stop_at_exit, os.getpid())
