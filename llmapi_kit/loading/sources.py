"""From a model's name to an engine that answers.

What a kind of model needs is imported when it is asked for, so that the mock works without torch. Blocking; called
from a cell or a worker thread.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Any

from llmapi_kit.config import Settings
from llmapi_kit.engines.base import Engine
from llmapi_kit.engines.fallback import FallbackEngine
from llmapi_kit.errors import ConfigError, InvalidRequestError, LlmApiKitError, MissingDependencyError
from llmapi_kit.loading.load_failure import load_error
from llmapi_kit.loading.loader import ModelLoader
from llmapi_kit.models.architecture import check_architecture
from llmapi_kit.models.load_options import check_load_options
from llmapi_kit.models.memory_need import MemoryNeed, fit_need, folder_need
from llmapi_kit.models.model_files import CONFIG, check_files, read_json
from llmapi_kit.models.spec import ModelSpec, parse_spec
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.sampling.recommended import checked

LOCAL_KINDS = ("folder", "hub", "gguf")  # run here, by torch
LIGHT_KINDS = ("mock", "upstream")  # need no memory to speak of, and are there at once
LOCAL_OPTIONS = ("device", "dtype", "lora", "tokenizer", "quantize", "sampling")  # of `load_model`
SETTINGS_OF_MODELS = (
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
)
SETTINGS_OF_UPSTREAMS = (
    "first_token_timeout_s",
    "upstream_connect_s",
    "upstream_answer_s",
    "upstream_silence_s",
    "upstream_retries",
    "upstream_retry_s",
)
UPSTREAM_OPTIONS = ("api_key", "base_url", "sampling")  # of `make_upstream`
Fallback = str | os.PathLike[str] | Engine | Sequence[str | os.PathLike[str] | Engine]


def make_engine(spec: ModelSpec, settings: Settings, *, fallback: Fallback | None = None, **options: Any) -> Engine:
    """Load a model and start its engine.

    Args:
        spec: what to load.
        settings: slots, context and memory.
        fallback: who answers when it can't: names of models, or engines, which stay open when this one is closed.
        options: of `llmapi_kit.models.weights.load_model`, for models that run here; of
            `llmapi_kit.engines.upstream.factory.make_upstream`, for a provider's.

    Raises:
        ModelError: it can't be loaded or served.
        MissingDependencyError: it needs an extra that is not installed.
        ConfigError: an option has a value that can't be used.
    """
    if fallback is None:
        return _make_one(spec, settings, options)
    given = fallbacks_of(fallback)
    kept = [each if isinstance(each, Engine) else getattr(each, "engine", None) for each in given]
    engines = [_make_one(spec, settings, options)]
    try:
        for name, engine in zip(given, kept, strict=True):
            engines.append(make_engine(parse_spec(name), settings) if engine is None else engine)
        return FallbackEngine(engines, kept=[engine for engine in kept if engine is not None])
    except BaseException:
        for engine in engines:
            if engine not in kept:
                engine.close()
        raise


def fallbacks_of(fallback: Any) -> list[Any]:
    """Who answers when a model can't: names of models, and what has an engine.

    Raises:
        ConfigError: something else is among them.
    """
    given = list(fallback) if isinstance(fallback, list | tuple) else [fallback]
    for each in given:
        if not isinstance(each, str | os.PathLike | Engine) and getattr(each, "engine", None) is None:
            raise ConfigError(f"fallback has {type(each).__name__}; it takes names of models, and engines.")
    return given


def _make_one(spec: ModelSpec, settings: Settings, options: Mapping[str, Any]) -> Engine:
    if spec.kind == "mock":
        from llmapi_kit.engines.mock import MockEngine

        return MockEngine(name=spec.id)
    check_sampling(spec, options.get("sampling"))
    if spec.kind == "upstream":
        from llmapi_kit.engines.upstream.factory import make_upstream

        return make_upstream(spec, settings, **options)
    if spec.kind == "plugin":
        from llmapi_kit.loading.plugin_source import make_plugin_engine

        plugin, _, name = spec.name.partition(":")
        return make_plugin_engine(plugin, name, **options)
    try:
        return ModelLoader.of(spec, settings, options).make_engine()
    except LlmApiKitError:
        raise
    except Exception as exc:  # whatever a model's files make of the libraries that read them
        raise load_error(spec.name, exc) from exc


def options_of(spec: ModelSpec) -> tuple[str, ...] | None:
    """Names of the options that `make_engine` takes for a model; None where whoever loads it decides."""
    if spec.kind == "mock":
        return ("fallback",)
    if spec.kind == "upstream":
        return (*UPSTREAM_OPTIONS, "fallback")
    return (*LOCAL_OPTIONS, "fallback") if spec.kind in LOCAL_KINDS else None


def settings_of(spec: ModelSpec) -> tuple[str, ...]:
    """Names of the settings that a model's engine goes by."""
    if spec.kind == "upstream":
        return SETTINGS_OF_UPSTREAMS
    return () if spec.kind == "plugin" else SETTINGS_OF_MODELS


def is_light(spec: ModelSpec) -> bool:
    """Whether it is loaded in no time and needs no memory: then there is no use in loading it later."""
    return spec.kind in LIGHT_KINDS


def check_installed(spec: ModelSpec) -> None:
    """Raise `MissingDependencyError` where a model needs a package that is not installed; imports nothing."""
    if spec.kind in LOCAL_KINDS:
        for package in ("torch", "transformers"):
            if importlib.util.find_spec(package) is None:
                raise MissingDependencyError(package, "torch", f"Loading {spec.id}")
    if spec.kind == "gguf" and importlib.util.find_spec("gguf") is None:
        raise MissingDependencyError("gguf", "gguf", f"Loading {spec.id}")


def check_model(spec: ModelSpec, options: Mapping[str, Any]) -> None:
    """Raise unless a model can be loaded with these options, as far as that can be told at once.

    Looks at names, at places and at the heads of files. Downloads nothing, imports no torch, asks no provider.

    Args:
        spec: which model.
        options: for it, as `make_engine` takes them.

    Raises:
        ConfigError: an option has a value that can't be used.
        ModelError: the files are not what their names say, or the model is of a kind that can't be served.
        MissingDependencyError: a package is not installed.
    """
    check_installed(spec)
    check_sampling(spec, options.get("sampling"))
    if spec.kind in LOCAL_KINDS:
        check_load_options(spec, options)
    if spec.kind == "folder" and spec.path is not None:
        check_architecture(read_json(spec.path / CONFIG), spec.name)
        is_own = options.get("tokenizer") is None and options.get("lora") is None
        check_files(spec.path, has_tokenizer=is_own)
    if spec.kind == "gguf" and spec.path is not None:
        from llmapi_kit.models.gguf_header import check_gguf_begin

        check_gguf_begin(spec.path)
    if options.get("fallback") is not None:
        for each in fallbacks_of(options["fallback"]):
            if isinstance(each, str | os.PathLike):
                check_model(parse_spec(each), {})


def memory_need(
    spec: ModelSpec, settings: Settings, *, device: str | None = None, dtype: str | None = None, **others: Any
) -> MemoryNeed:
    """What memory loading a model takes, as far as that can be told before.

    Raises:
        ModelLoadError: its configuration is damaged.
        ConfigError: `device` names what is not there.
    """
    if spec.kind not in LOCAL_KINDS:
        return MemoryNeed()
    from llmapi_kit.models.hub import cached_folder
    from llmapi_kit.models.weights import pick_device

    place = pick_device(device)
    if spec.kind == "gguf" and spec.path is not None:
        from llmapi_kit.models.gguf import check_gguf, open_gguf

        opened = open_gguf(spec.path)
        loaded = dtype or (opened.stored_dtype if place.startswith("cuda") else "float32")
        return fit_need(check_gguf(opened, place, loaded), settings)
    folder = spec.path or cached_folder(spec.name)
    return MemoryNeed(place) if folder is None else folder_need(folder, place, dtype, settings)


def check_sampling(spec: ModelSpec, defaults: Any) -> None:
    """Raise `ConfigError` unless every request could be answered with these as its own."""
    if defaults is None:
        return
    if not isinstance(defaults, Mapping):
        raise ConfigError(
            f"sampling={defaults!r} can't be used: it must be a dictionary such as {{'temperature': 0.7}}."
        )
    try:
        SamplingParams(**defaults)
        if spec.kind in LOCAL_KINDS:
            for name, value in defaults.items():
                checked(name, value)
    except (TypeError, OverflowError, InvalidRequestError) as exc:
        raise ConfigError(f"sampling={defaults!r} can't be used: {exc}") from exc
