"""The engines one server answers with, by model name.

Thread-safe: the server's event loop reads it while a cell replaces an engine.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from llmapi_kit.engines.base import Engine
from llmapi_kit.errors import ConfigError, NotFoundError


class Catalog:
    """Model names and who answers to them; the first engine is the default.

    Args:
        engines: at least one, each with its own name.
    """

    def __init__(self, engines: Iterable[Engine]) -> None:
        self._lock = threading.Lock()
        self._engines: dict[str, Engine] = {}
        self.replace(engines)

    def replace(self, engines: Iterable[Engine]) -> list[Engine]:
        """Answer with these engines from now on; returns those that no longer answer. Running requests go on.

        Raises:
            ConfigError: there is none, or two have the same name.
        """
        new: dict[str, Engine] = {}
        for engine in engines:
            if engine.info.id in new:
                raise ConfigError(f"Two models have the name {engine.info.id!r}.")
            new[engine.info.id] = engine
        if not new:
            raise ConfigError("A server needs at least one model.")
        with self._lock:
            old, self._engines = self._engines, new
        kept = {id(engine) for engine in new.values()}
        return [engine for engine in old.values() if id(engine) not in kept]

    def all(self) -> list[Engine]:
        """Every engine, the default first."""
        with self._lock:
            return list(self._engines.values())

    async def find(self, model: str | None) -> Engine:
        """The engine of a name, ready to tell what it can do; None for the default.

        Raises:
            NotFoundError: nobody answers to that name.
        """
        return self.get(model)

    def get(self, model: str | None) -> Engine:
        """The engine of a name; None for the default.

        Raises:
            NotFoundError: nobody answers to that name.
        """
        with self._lock:
            engine = next(iter(self._engines.values())) if model is None else self._engines.get(model)
            names = ", ".join(self._engines)
        if engine is None:
            raise NotFoundError(
                f"The model {model!r} is not served here. This server has: {names}.",
                param="model",
                code="model_not_found",
            )
        return engine
