"""The kinds of models there are, one class each: what a load may be told, what it needs, and how the engine is made.

A source knows nothing of other models or of when it is called. What a kind needs is imported when its engine is made,
so that the mock works without torch. Blocking; called from a cell or a worker thread.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any, Protocol

from llmapi_kit.checkpoints.architecture import check_architecture
from llmapi_kit.checkpoints.fit import MemoryNeed, folder_need
from llmapi_kit.checkpoints.heavy_imports import LOCAL_MODELS, import_heavy
from llmapi_kit.checkpoints.load_options import check_load_options
from llmapi_kit.checkpoints.model_files import CONFIG, check_files, read_json
from llmapi_kit.checkpoints.remote_code import brings_code, check_code
from llmapi_kit.checkpoints.spec import ModelSpec
from llmapi_kit.config import Settings
from llmapi_kit.engines.base import Engine
from llmapi_kit.errors import ConfigError, InvalidRequestError, LlmApiKitError, MissingDependencyError, ModelError
from llmapi_kit.loading.division import DIVIDING, check_division
from llmapi_kit.loading.draft import with_draft
from llmapi_kit.loading.embedding_source import EmbeddingSource, is_embedding_model
from llmapi_kit.loading.gguf_source import GgufSource
from llmapi_kit.loading.load_failure import load_error
from llmapi_kit.loading.loader import ModelLoader
from llmapi_kit.loading.parallel_loader import ParallelLoader
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.sampling.recommended import checked

Options = Mapping[str, Any]

LOCAL_SETTINGS = (
    "max_slots",
    "context_length",
    "kv_memory",
    "num_threads",
    "native",
    "compile",
    "step_tokens",
    "default_max_tokens",
    "max_queue",
    "prefix_cache",
    "draft",
    "draft_tokens",
    "download_stall_s",
    "step_timeout_s",
)
UPSTREAM_SETTINGS = (
    "first_token_timeout_s",
    "upstream_connect_s",
    "upstream_answer_s",
    "upstream_silence_s",
    "upstream_retries",
    "upstream_retry_s",
)


class Source(Protocol):
    """Where an engine comes from.

    Attributes:
        options: names of the options that `make_engine` takes; None where whoever makes it decides.
        settings: names of the settings that the engine goes by.
        is_light: whether it is there at once and needs no memory, so that there is no use in loading it later.
    """

    @property
    def options(self) -> tuple[str, ...] | None:
        """See the class."""
        ...

    @property
    def settings(self) -> tuple[str, ...]:
        """See the class."""
        ...

    @property
    def is_light(self) -> bool:
        """See the class."""
        ...

    def check(self, spec: ModelSpec, options: Options) -> None:
        """Raise unless it can be made, as far as that can be told at once.

        Looks at names, at places and at the heads of files. Downloads nothing, imports no torch, asks no provider.

        Raises:
            ConfigError: an option has a value that can't be used.
            ModelError: the files are not what their names say, or the model is of a kind that can't be served.
            MissingDependencyError: a package is not installed.
        """
        ...

    def memory_need(self, spec: ModelSpec, settings: Settings, options: Options) -> MemoryNeed:
        """What memory it takes, as far as that can be told before.

        Raises:
            LlmApiKitError: its files are damaged, or an option names what is not there.
        """
        ...

    def make_engine(self, spec: ModelSpec, settings: Settings, options: Options) -> Engine:
        """Load it and start its engine.

        Raises:
            ModelError: it can't be loaded or served.
            ConfigError: an option has a value that can't be used.
            MissingDependencyError: a package is not installed.
        """
        ...


class MockSource:
    """The stand-in without a model."""

    options: tuple[str, ...] | None = ()
    settings = LOCAL_SETTINGS
    is_light = True

    def check(self, spec: ModelSpec, options: Options) -> None:
        """See `Source.check`."""

    def memory_need(self, spec: ModelSpec, settings: Settings, options: Options) -> MemoryNeed:
        """See `Source.memory_need`."""
        return MemoryNeed()

    def make_engine(self, spec: ModelSpec, settings: Settings, options: Options) -> Engine:
        """See `Source.make_engine`."""
        from llmapi_kit.engines.mock import MockEngine

        return MockEngine(name=spec.id)


class UpstreamSource:
    """A provider's model."""

    options: tuple[str, ...] | None = ("api_key", "base_url", "sampling")
    settings = UPSTREAM_SETTINGS
    is_light = True

    def check(self, spec: ModelSpec, options: Options) -> None:
        """See `Source.check`."""
        check_sampling(options.get("sampling"))

    def memory_need(self, spec: ModelSpec, settings: Settings, options: Options) -> MemoryNeed:
        """See `Source.memory_need`."""
        return MemoryNeed()

    def make_engine(self, spec: ModelSpec, settings: Settings, options: Options) -> Engine:
        """See `Source.make_engine`."""
        from llmapi_kit.engines.upstream.factory import make_upstream

        self.check(spec, options)
        return make_upstream(spec, settings, **options)


class PluginSource:
    """A back end that another package brings, which decides what options it takes."""

    options: tuple[str, ...] | None = None
    settings: tuple[str, ...] = ()
    is_light = False

    def check(self, spec: ModelSpec, options: Options) -> None:
        """See `Source.check`."""
        check_sampling(options.get("sampling"))

    def memory_need(self, spec: ModelSpec, settings: Settings, options: Options) -> MemoryNeed:
        """See `Source.memory_need`."""
        return MemoryNeed()

    def make_engine(self, spec: ModelSpec, settings: Settings, options: Options) -> Engine:
        """See `Source.make_engine`."""
        from llmapi_kit.loading.plugin_source import make_plugin_engine

        self.check(spec, options)
        plugin, _, name = spec.name.partition(":")
        return make_plugin_engine(plugin, name, **options)


class LocalSource:
    """A model of transformers that runs here: a folder or a model of the hub."""

    options: tuple[str, ...] | None = (
        *("device", "dtype", "lora", "tokenizer", "quantize", "kv_cache_dtype", "sampling", "revision"),
        *("subfolder", "trust_remote_code", "tensor_parallel", "device_map"),
    )
    settings = LOCAL_SETTINGS
    is_light = False

    def check(self, spec: ModelSpec, options: Options) -> None:
        """See `Source.check`."""
        _check_installed(spec)
        check_sampling(options.get("sampling"), is_local=True)
        check_load_options(spec, options)
        check_division(options)
        if spec.kind == "folder" and spec.path is not None:
            trusts_code = options.get("trust_remote_code") is True
            check_architecture(read_json(spec.path / CONFIG), spec.name, trusts_code=trusts_code)
            is_own = options.get("tokenizer") is None and not isinstance(options.get("lora"), str)
            check_files(spec.path, has_tokenizer=is_own)

    def memory_need(self, spec: ModelSpec, settings: Settings, options: Options) -> MemoryNeed:
        """See `Source.memory_need`."""
        import_heavy(LOCAL_MODELS)
        try:
            return with_draft(_local_need(spec, settings, options), settings)
        except LlmApiKitError:
            raise
        except Exception as exc:  # whatever a configuration makes of the library that reads it
            raise load_error(spec.name, exc) from exc

    def make_engine(self, spec: ModelSpec, settings: Settings, options: Options) -> Engine:
        """See `Source.make_engine`."""
        check_sampling(options.get("sampling"), is_local=True)
        import_heavy(LOCAL_MODELS)
        try:
            return self._loader(spec, settings, options).make_engine()
        except LlmApiKitError:
            raise
        except Exception as exc:  # whatever a model's files make of the libraries that read them
            raise load_error(spec.name, exc) from exc

    def _loader(self, spec: ModelSpec, settings: Settings, options: Options) -> ModelLoader:
        is_parallel = options.get("tensor_parallel", 1) > 1
        return (ParallelLoader if is_parallel else ModelLoader).of(
            spec, settings, {name: value for name, value in options.items() if is_parallel or name != "tensor_parallel"}
        )


class LoaderSource(LocalSource):
    """A model that a `ModelLoader` of the user's own loads, which may need other files and packages.

    Args:
        loader: who loads it.
    """

    def __init__(self, loader: ModelLoader) -> None:
        self._own = loader

    def check(self, spec: ModelSpec, options: Options) -> None:
        """See `Source.check`."""
        for name in DIVIDING:
            if options.get(name) not in (None, 1):
                raise ConfigError(f"{name} goes with models that kit.load loads by itself, not by a ModelLoader.")
        check_sampling(options.get("sampling"), is_local=True)

    def memory_need(self, spec: ModelSpec, settings: Settings, options: Options) -> MemoryNeed:
        """See `Source.memory_need`; unknown for what only the loader understands."""
        try:
            return super().memory_need(spec, settings, options)
        except ModelError:
            return MemoryNeed()

    def make_engine(self, spec: ModelSpec, settings: Settings, options: Options) -> Engine:
        """See `Source.make_engine`. What the loader raises is its author's to see."""
        import_heavy(LOCAL_MODELS)
        return self._loader(spec, settings, options).make_engine()

    def _loader(self, spec: ModelSpec, settings: Settings, options: Options) -> ModelLoader:
        return self._own.loaded_with(spec, settings, options)


_LOCAL = LocalSource()
SOURCES: Mapping[str, Source] = {
    "mock": MockSource(),
    "upstream": UpstreamSource(),
    "plugin": PluginSource(),
    "folder": _LOCAL,
    "hub": _LOCAL,
    "gguf": GgufSource(),
    "embedding": EmbeddingSource(),  # folders and models of the hub that are nothing else
}


def source_of(spec: ModelSpec, *, is_embedding: bool = False) -> Source:
    """Where a model's engine comes from.

    Args:
        spec: which model.
        is_embedding: whether it is to make vectors or scores, also where its files do not say so.
    """
    return SOURCES["embedding" if is_embedding or is_embedding_model(spec) else spec.kind]


def check_sampling(defaults: Any, *, is_local: bool = False) -> None:
    """Raise `ConfigError` unless every request could be answered with these as its own.

    Args:
        defaults: what a load was told; None for nothing.
        is_local: whether they are for a model that runs here, which takes fewer names.
    """
    if defaults is None:
        return
    if not isinstance(defaults, Mapping):
        raise ConfigError(
            f"sampling={defaults!r} can't be used: it must be a dictionary such as {{'temperature': 0.7}}."
        )
    try:
        SamplingParams(**defaults)
        for name, value in defaults.items() if is_local else ():
            checked(name, value)
    except (TypeError, OverflowError, InvalidRequestError) as exc:
        raise ConfigError(f"sampling={defaults!r} can't be used: {exc}") from exc


def _check_installed(spec: ModelSpec) -> None:
    """Raise `MissingDependencyError` where a package is not installed; imports nothing."""
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(package, "torch", f"Loading {spec.id}")


def _loaded_as(options: Options) -> str | None:
    """What the weights become in memory, of what `checkpoints.fit` knows; None for the device's own choice."""
    quantized: str | None = {"8bit": "int8", "4bit": "int4"}.get(options.get("quantize") or "", options.get("quantize"))
    return quantized or options.get("dtype")


def _local_need(spec: ModelSpec, settings: Settings, options: Options) -> MemoryNeed:
    from llmapi_kit.checkpoints.device_choice import pick_device
    from llmapi_kit.checkpoints.hub_cache import cached_folder

    place = pick_device(options.get("device"))
    if options.get("device_map") is not None and place != "cpu":
        return MemoryNeed(place)  # and on other cards, as accelerate decides
    folder = spec.path or cached_folder(spec.name, options.get("revision"), options.get("subfolder") or "")
    if folder is None:
        return MemoryNeed(place)
    trusts_code = options.get("trust_remote_code") is True and brings_code(read_json(folder / CONFIG))
    if trusts_code:
        check_code(folder, spec.name)
    return folder_need(folder, place, _loaded_as(options), settings, trusts_code=trusts_code)
