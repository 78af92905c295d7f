"""The engines one server answers with, by model name, their adapters, and other names that lead to them.

A request may be one that not every model answers: the others are not there for it. Thread-safe: the server's event
loop reads it while a cell replaces an engine.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar

from llmapi_kit.engines.adapters import adapters_of
from llmapi_kit.engines.base import DeferredEngine, Engine
from llmapi_kit.errors import ConfigError, EngineUnavailableError, NotFoundError

visible_models: ContextVar[tuple[str, ...] | None] = ContextVar("llmapi_kit_visible_models", default=None)
"""The models that there are for the request under way; None for all."""


class Catalog:
    """Model names and who answers to them.

    Args:
        engines: at least one, each with its own name.
        aliases: further names, each with the model that it stands for.
        default: who answers a request that names no model, by name or alias; None for the first.
    """

    def __init__(
        self, engines: Iterable[Engine], aliases: Mapping[str, str] | None = None, default: str | None = None
    ) -> None:
        self._lock = threading.Lock()
        self._engines: dict[str, Engine] = {}
        self._aliases: dict[str, str] = {}
        self._default: str | None = None
        self._waiting: set[asyncio.Future[None]] = set()  # touched on the server's event loop only
        self.replace(engines, aliases, default)

    def replace(
        self, engines: Iterable[Engine], aliases: Mapping[str, str] | None = None, default: str | None = None
    ) -> list[Engine]:
        """Answer with these engines from now on; returns those that no longer answer. Running requests go on.

        Raises:
            ConfigError: there is none, two have the same name, or an alias or the default leads nowhere.
        """
        given = list(engines)
        other_names = dict(aliases or {})
        check_names([name for engine in given for name in (engine.info.id, *_adapters(engine))], other_names, default)
        new = {engine.info.id: engine for engine in given}
        first = None if default is None else other_names.get(default, default)
        if first in new:
            new = {first: new[first], **new}
        with self._lock:
            old, self._engines, self._aliases, self._default = self._engines, new, other_names, first
        kept = {id(engine) for engine in new.values()}
        return [engine for engine in old.values() if id(engine) not in kept]

    def all(self) -> list[Engine]:
        """Every engine, the default first; adapters answer through their model's."""
        return [engine for engine in self._visible()[0].values() if not engine.info.parent]

    def listed(self) -> list[Engine]:
        """Who answers to each name that is not an alias: every engine, and after it its adapters."""
        return list(self._visible()[0].values())

    def aliases(self) -> dict[str, str]:
        """Other names, each with the model that it stands for; none of an adapter that was removed."""
        return self._visible()[1]

    async def find(self, model: str | None, capability: str = "") -> Engine:
        """The engine of a name, ready to tell what it can do. May wait until it is loaded.

        Args:
            model: its name; None for the default, but for what `capability` says.
            capability: where no model is named: the first one that was made for this, and writes no text, goes before
                the default; where the default can't do it, the first one that can.

        Raises:
            NotFoundError: nobody answers to that name.
            EngineUnavailableError: it can't be loaded, or not in time.
        """
        engine = self._default_for(capability) if model is None and capability else self.get(model)
        if isinstance(engine, DeferredEngine) and engine.readiness().state != "loaded":
            await self._load(engine)
        return engine

    def made_for(self, capability: str) -> Engine | None:
        """The first engine with a capability that writes no text, such as an embedding model; None for none."""
        writing = {"chat", "completions"}
        return next(
            (
                each
                for each in self.all()
                if capability in each.info.capabilities and not writing & {*each.info.capabilities}
            ),
            None,
        )

    def _default_for(self, capability: str) -> Engine:
        """Who does something where no model is named.

        Raises:
            NotFoundError: there is no model at all.
        """
        default = self.get(None)
        if (special := self.made_for(capability)) is not None:
            return special
        if capability in default.info.capabilities or not default.info.capabilities:  # the latter is not loaded yet
            return default
        return next((engine for engine in self.all() if capability in engine.info.capabilities), default)

    def stop_waiting(self) -> None:
        """End every `find` that waits for a model in an error that says the server stopped. On its event loop only."""
        for waiting in list(self._waiting):
            waiting.cancel()

    async def _load(self, engine: DeferredEngine) -> None:
        waiting = asyncio.ensure_future(engine.prepare())
        self._waiting.add(waiting)
        try:
            await asyncio.wait((waiting,))
            if waiting.cancelled():
                raise EngineUnavailableError("The server was stopped.")
            waiting.result()
        finally:
            self._waiting.discard(waiting)
            waiting.cancel()

    def get(self, model: str | None) -> Engine:
        """The engine of a name, loaded or not; None for the default.

        Raises:
            NotFoundError: nobody answers to that name.
        """
        engines, aliases = self._visible()
        if model is None:
            engine = engines.get(self._default or "") or next(iter(engines.values()), None)
        else:
            engine = engines.get(aliases.get(model, model))
        if engine is not None:
            return engine
        names = ", ".join((*engines, *aliases)) or "none"
        if visible_models.get() is None:
            message = f"The model {model!r} is not served here. This server has: {names}."
        elif model is None:
            message = f"No model of this key is served here now; it has {', '.join(visible_models.get() or ())}."
        else:
            message = f"The model {model!r} is not served to this key. It may use: {names}."
        raise NotFoundError(message, param="model", code="model_not_found")

    def _visible(self) -> tuple[dict[str, Engine], dict[str, str]]:
        """Engines by name, and aliases, as far as there are for the request under way."""
        visible = visible_models.get()
        with self._lock:
            engines, aliases = dict(self._engines), dict(self._aliases)
        named: dict[str, Engine] = {}
        for name, engine in engines.items():
            named[name] = engine
            named |= {each: adapter for each, adapter in _adapters(engine).items() if each not in engines}
        if visible is not None:
            named = {name: engine for name, engine in named.items() if name in visible}
        return named, {alias: model for alias, model in aliases.items() if model in named}


def _adapters(engine: Engine) -> Mapping[str, Engine]:
    """Who answers with each of a model's adapters, by name."""
    adapters = adapters_of(engine)
    return {} if adapters is None else adapters.engines()


def check_names(models: Sequence[str], aliases: Mapping[str, str], default: str | None) -> None:
    """Check what models are to be called, before they are there.

    Raises:
        ConfigError: there is none, two have the same name, or an alias or the default leads nowhere.
    """
    if not models:
        raise ConfigError("A server needs at least one model.")
    for name in models:
        if models.count(name) > 1:
            raise ConfigError(f"Two models have the name {name!r}. Give one another: kit.load(…, served_name=…).")
    for alias, model in aliases.items():
        if not alias or alias in models:
            raise ConfigError(f"The alias {alias!r} is the name of a model, or empty. Choose another.")
        if model not in models:
            raise ConfigError(f"The alias {alias!r} stands for {model!r}, which is not one of: {', '.join(models)}.")
    if default is not None and aliases.get(default, default) not in models:
        raise ConfigError(f"default is {default!r}, which is not one of the models: {', '.join(models)}.")
