"""The models of this process: loaded once, found again by the same call, and unloaded when nobody uses them any more.

What `llmapi_kit.kit` calls; knows nothing of servers. Blocking, but for models that are loaded when they are asked for.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from llmapi_kit.config import Settings, load_settings
from llmapi_kit.engines.base import Engine
from llmapi_kit.engines.wrapper import renamed
from llmapi_kit.errors import ConfigError, LlmApiKitError, ModelError
from llmapi_kit.loading.lazy_engine import LazyEngine
from llmapi_kit.loading.lazy_model import LazyModel
from llmapi_kit.loading.load_failure import load_error
from llmapi_kit.loading.loader import ModelLoader
from llmapi_kit.loading.model_memory import ModelMemory
from llmapi_kit.loading.sources import (
    check_model,
    check_sampling,
    is_light,
    make_engine,
    memory_need,
    options_of,
    settings_of,
)
from llmapi_kit.model import Model
from llmapi_kit.models.memory_need import MemoryNeed
from llmapi_kit.models.spec import ModelSpec, name_of, parse_spec

logger = logging.getLogger(__name__)

PLACES = ("lora", "tokenizer")  # options that may be paths


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """A model as a call describes it.

    Attributes:
        spec: which.
        settings: of its engine.
        options: for whoever loads it.
        loader: who loads it; None for the kit.
        key: the same for the same call.
    """

    spec: ModelSpec
    settings: Settings
    options: Mapping[str, Any]
    loader: ModelLoader | None
    key: tuple[object, str]

    def make(self) -> Engine:
        """Load it."""
        if self.loader is not None:
            engine = self.loader.loaded_with(self.spec, self.settings, self.options).make_engine()
        else:
            engine = make_engine(self.spec, self.settings, **self.options)
        return renamed(engine, self.spec.id or engine.info.id)

    def need(self) -> MemoryNeed:
        """What memory that takes; unknown for what only its loader understands."""
        try:
            return memory_need(self.spec, self.settings, **self.options)
        except ModelError:
            if self.loader is None:
                raise
            return MemoryNeed()
        except LlmApiKitError:
            raise
        except Exception as exc:  # whatever a configuration makes of the library that reads it
            raise load_error(self.spec.name, exc) from exc


def resolve(
    wanted: str | os.PathLike[str] | ModelLoader,
    served_name: str | None = None,
    given: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> LoadRequest:
    """What a call of `load` asks for, as far as that can be told without loading anything.

    Args:
        wanted: a name, a path, or who loads it.
        served_name: what clients pass as ``model``; None for the model's own name.
        given: options and settings; None as a value means not given.
        defaults: settings, of which those count that the model goes by and that are not given.

    Raises:
        ModelError: there is no such model, or it can't be served.
        ConfigError: an argument is not known, or has a value that can't be used.
        MissingDependencyError: it needs an extra that is not installed.
    """
    if not isinstance(wanted, str | os.PathLike | ModelLoader):
        raise ConfigError(f"load() takes a model's name, a path or a ModelLoader, not {type(wanted).__name__}.")
    loader = wanted if isinstance(wanted, ModelLoader) else None
    spec = wanted.spec if isinstance(wanted, ModelLoader) else parse_spec(wanted)
    names, setting_names = options_of(spec), settings_of(spec)
    values = {name: value for name, value in (defaults or {}).items() if name in setting_names}
    values |= loader.options if loader is not None else {}
    values |= {name: value for name, value in (given or {}).items() if value is not None}
    for name in values:
        if names is not None and name not in (*names, *setting_names):
            raise ConfigError(
                f"load() has no argument {name!r} for {spec.name!r}. It takes {', '.join((*names, *setting_names))}."
            )
    if served_name is not None:
        if not isinstance(served_name, str) or not served_name.strip() or not served_name.isprintable():
            raise ConfigError(f"served_name is {served_name!r}; it must be a name that clients can write.")
        spec = replace(spec, id=served_name)
    values |= {name: name_of(values[name]) for name in PLACES if isinstance(values.get(name), os.PathLike)}
    settings = {name: value for name, value in values.items() if name in setting_names}
    options = {name: value for name, value in values.items() if name not in setting_names}
    checked_settings = load_settings(**settings)
    if loader is None:
        check_model(spec, options)
    else:  # which may need something else, and read other files
        check_sampling(spec, options.get("sampling"))
    # A digest, as options may hold a key
    rest = hashlib.sha256(repr((served_name, sorted(values.items()))).encode()).hexdigest()
    who = spec.name if loader is None else (type(loader), loader.identity)
    return LoadRequest(spec, checked_settings, options, loader, (who, rest))


class LoadedModels:
    """Every model that `load` made in this process.

    Args:
        lock: held while a model is loaded, so that two calls at once load it once.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self.model_memory = ModelMemory()
        self._lock = lock
        self._models: dict[tuple[object, str], Model] = {}

    def load(self, wanted: LoadRequest, *, is_lazy: bool = False, settings: Settings | None = None) -> Model:
        """The model that the same call made before, or a new one.

        Args:
            wanted: which.
            is_lazy: leave loading it to the first request; one that needs no memory of this machine is made at once.
            settings: how long requests wait for it, and when it is unloaded, if it is loaded by a request.

        Raises:
            LlmApiKitError: loading it failed.
        """
        with self._lock:
            model = self._known(wanted)
            if model is None:
                if is_lazy and not is_light(wanted.spec):
                    model = self._lazy(wanted, settings or load_settings())
                else:
                    model = self._eager(wanted)
                self._models[wanted.key] = model
        if isinstance(model.engine, LazyEngine):
            if settings is not None:
                model.engine.apply(settings)
            if not is_lazy:
                model.engine.load()  # without the lock: it may wait for others
        return model

    def unload(self, engines: Sequence[Engine], used: Collection[int], drain_s: float = 0.0) -> None:
        """Close models that no server uses any more, and give their memory back.

        Args:
            engines: those that a server no longer answers with; whoever made one by hand keeps it.
            used: ids of engines that others answer with.
            drain_s: how long they may finish what they are answering.
        """
        dropped = {id(engine) for engine in engines} - set(used)
        models = {key: model for key, model in self._models.items() if id(model.engine) in dropped}
        try:
            deadline = time.monotonic() + drain_s
            while any(_is_busy(model.engine) for model in models.values()) and time.monotonic() < deadline:
                time.sleep(0.02)
        finally:  # also when the cell is interrupted meanwhile
            for key, model in models.items():
                num_bytes = model.close()
                self._models.pop(key, None)
                logger.info("Unloaded %s; %.2f GB of GPU memory given back", model.name, num_bytes / 1e9)

    def close_all(self) -> None:
        """Close every model."""
        for model in self._models.values():
            model.close()
        self._models.clear()

    def _known(self, wanted: LoadRequest) -> Model | None:
        known = self._models.get(wanted.key)
        if known is None or known.is_closed:
            return None
        if known.engine.readiness().ready:
            return known
        known.close()  # its engine died or hangs; two would not fit where one is large
        return None

    def _eager(self, wanted: LoadRequest) -> Model:
        is_heavy = not is_light(wanted.spec)
        with self.model_memory.turn() if is_heavy else nullcontext():
            started = time.perf_counter()
            if is_heavy:
                self.model_memory.make_room(wanted.spec.id, wanted.need(), lambda: True, None)
            return Model(wanted.make(), time.perf_counter() - started)

    def _lazy(self, wanted: LoadRequest, settings: Settings) -> Model:
        return Model(LazyEngine(LazyModel(wanted.spec, wanted.make, wanted.need, self.model_memory, settings)))


def _is_busy(engine: Engine) -> bool:
    stats = engine.stats()
    return stats.num_running + stats.num_queued > 0
