"""A call of `load`, resolved: which model, from where, with which settings; checked as far as can be before it loads.

The first step of a load. Knows nothing of the models that are in memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from llmapi_kit.checkpoints.choice import Choice
from llmapi_kit.checkpoints.fit import MemoryNeed
from llmapi_kit.checkpoints.spec import ModelSpec, name_of, parse_spec
from llmapi_kit.config import Settings, load_settings
from llmapi_kit.engines.base import Engine
from llmapi_kit.engines.fallback import FallbackEngine
from llmapi_kit.engines.renamed_engine import renamed
from llmapi_kit.errors import ConfigError
from llmapi_kit.loading.adapters import adapter_sources
from llmapi_kit.loading.division import DIVIDING, check_undivided
from llmapi_kit.loading.draft import check_draft
from llmapi_kit.loading.embedding_source import EmbeddingSource
from llmapi_kit.loading.gguf_source import GgufSource
from llmapi_kit.loading.loader import ModelLoader
from llmapi_kit.loading.options import unknown_load_option
from llmapi_kit.loading.placement import HERE, Placement, read_placement
from llmapi_kit.loading.placement import OPTIONS as PLACES
from llmapi_kit.loading.sources import LoaderSource, LocalSource, Source, source_of

PATHS = ("lora", "tokenizer", "mmproj", "draft")  # what may be a path
FALLBACK = "fallback"

Name = str | os.PathLike[str]
Fallback = Name | Engine | Sequence[Name | Engine]


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """A model as a call describes it.

    Attributes:
        spec: which.
        source: where its engine comes from.
        settings: of its engine.
        options: for its source.
        fallback: who answers when it can't: names of models, and engines, which stay open when this one is closed.
        key: the same for the same call.
        placement: where its engine runs.
    """

    spec: ModelSpec
    source: Source
    settings: Settings
    options: Mapping[str, Any]
    fallback: Sequence[Any]
    key: tuple[object, str]
    placement: Placement = HERE

    @property
    def adapters(self) -> dict[str, str] | None:
        """Sources of the adapters to serve beside it, by name, which may change between loads; None where none can."""
        lora = self.options.get("lora")
        return lora if isinstance(lora, dict) else None

    def with_room_for_adapters(self) -> LoadRequest:
        """The same, where adapters may be added later and are to be there when it is loaded again."""
        has_place = isinstance(self.source, LocalSource | GgufSource) and not self.options.keys() & set(DIVIDING)
        if "lora" in self.options or not has_place:
            return self
        return replace(self, options={**self.options, "lora": {}})

    def make(self) -> Engine:
        """Load it.

        Raises:
            LlmApiKitError: it can't be loaded.
        """
        make_engine = partial(self.source.make_engine, self.spec, self.settings)
        engine = self.placement.make(make_engine, self.options, self.spec.id, self.settings.step_timeout_s)
        if self.fallback:
            engine = _with_fallback(engine, self.fallback, self.settings)
        return renamed(engine, self.spec.id or engine.info.id)

    def capabilities(self) -> tuple[str, ...]:
        """What the engine will be able to do; empty where that is not known before it is loaded."""
        return self.source.capabilities(self.spec, self.options) if isinstance(self.source, EmbeddingSource) else ()

    def need(self) -> MemoryNeed:
        """What memory that takes, as far as that can be told before."""
        return self.placement.need(self.source.memory_need(self.spec, self.settings, self.options))


def resolve(
    model: Name | ModelLoader | Choice,
    served_name: str | None = None,
    given: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    *,
    is_embedding: bool = False,
) -> LoadRequest:
    """What a call of `load` asks for, checked as far as that can be done without loading anything.

    Args:
        model: a name, a path, who loads it, or what was chosen.
        served_name: what clients pass as ``model``; None for the model's own name.
        given: options and settings; None as a value means not given.
        defaults: settings, of which those count that the model goes by and that are not given.
        is_embedding: whether it is to make vectors or scores; else its files say so, where they can mean nothing else.

    Raises:
        ModelError: there is no such model, or it can't be served.
        ConfigError: an argument is not known, or has a value that can't be used.
        MissingDependencyError: it needs an extra that is not installed.
    """
    if isinstance(model, Choice):
        options = {**model.options, **(given or {})}
        name = options.pop("served_name", None) if served_name is None else served_name
        return resolve(model.name, name, options, defaults, is_embedding=is_embedding)
    if not isinstance(model, str | os.PathLike | ModelLoader):
        raise ConfigError(f"load() takes a model's name, a path or a ModelLoader, not {type(model).__name__}.")
    loader = model if isinstance(model, ModelLoader) else None
    spec = model.spec if isinstance(model, ModelLoader) else parse_spec(model)
    source = source_of(spec, is_embedding=is_embedding) if loader is None else LoaderSource(loader)
    values = {name: value for name, value in (defaults or {}).items() if name in source.settings}
    values |= loader.options if loader is not None else {}
    values |= {name: value for name, value in (given or {}).items() if value is not None}
    _check_names(values, source, spec)
    if served_name is not None:
        if not isinstance(served_name, str) or not served_name.strip() or not served_name.isprintable():
            raise ConfigError(f"served_name is {served_name!r}; it must be a name that clients can write.")
        spec = replace(spec, id=served_name)
    values |= {name: name_of(values[name]) for name in PATHS if isinstance(values.get(name), os.PathLike)}
    if "lora" in values:
        values["lora"] = adapter_sources(values["lora"])
    settings = load_settings(**{name: value for name, value in values.items() if name in source.settings})
    options = {name: value for name, value in values.items() if name not in (*source.settings, FALLBACK, *PLACES)}
    source.check(spec, options)
    if "draft" in source.settings:
        check_draft(settings)
        check_undivided(settings, options)
    placement = read_placement(values, spec)
    fallback = _fallbacks(values.get(FALLBACK))
    # A digest, as options may hold a key
    rest = hashlib.sha256(repr((served_name, sorted(values.items()))).encode()).hexdigest()
    who = (type(source), spec.name) if loader is None else (type(loader), loader.identity)
    return LoadRequest(spec, source, settings, options, fallback, (who, rest), placement)


def make_engine(spec: ModelSpec, settings: Settings, *, fallback: Fallback | None = None, **options: Any) -> Engine:
    """Load a model and start its engine, without checking first what a call of `load` is checked for.

    Args:
        spec: what to load.
        settings: of the engine.
        fallback: see `LoadRequest`.
        options: for the model's source; see `llmapi_kit.checkpoints.weights.load_model` and
            `llmapi_kit.engines.upstream.factory.make_upstream`.

    Raises:
        LlmApiKitError: see `Source.make_engine`.
    """
    return LoadRequest(spec, source_of(spec), settings, options, _fallbacks(fallback), (spec.name, "")).make()


def _check_names(values: Mapping[str, Any], source: Source, spec: ModelSpec) -> None:
    if source.options is None:
        return
    known = (*source.options, FALLBACK, *PLACES, *source.settings)
    for name in values:
        if name not in known:
            raise unknown_load_option(name, spec.name, known)


def _fallbacks(given: Any) -> list[Any]:
    """Who answers when a model can't: names of models, checked, and what has an engine.

    Raises:
        ConfigError: something else is among them.
    """
    found = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    for each in found:
        if isinstance(each, str | os.PathLike):
            spec = parse_spec(each)
            source_of(spec).check(spec, {})
        elif _engine_of(each) is None:
            raise ConfigError(f"fallback has {type(each).__name__}; it takes names of models, and engines.")
    return found


def _engine_of(given: Any) -> Engine | None:
    """The engine that somebody else made: itself, or a loaded model's."""
    engine = given if isinstance(given, Engine) else getattr(given, "engine", None)
    return engine if isinstance(engine, Engine) else None


def _with_fallback(engine: Engine, fallback: Sequence[Any], settings: Settings) -> Engine:
    kept = [_engine_of(each) for each in fallback]
    engines = [engine]
    try:
        for name, own in zip(fallback, kept, strict=True):
            engines.append(make_engine(parse_spec(name), settings) if own is None else own)
        return FallbackEngine(engines, kept=[each for each in kept if each is not None])
    except BaseException:
        for each in engines:
            if each not in kept:
                each.close()
        raise
