"""An engine whose model is loaded when it is first asked for, and unloaded when it is idle or others need its memory.

Requests wait on their own event loop until the model is there; nothing here blocks one. Whoever makes one closes it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial

from llmapi_kit.config import Settings
from llmapi_kit.engines.adapters import (
    AdapterInfo,
    Adapters,
    adapter_info,
    adapters_of,
    no_such_adapter,
    served_name,
)
from llmapi_kit.engines.base import Engine, GenerationRequest, ImageEngine
from llmapi_kit.errors import ConfigError, NotFoundError, UnsupportedFieldError
from llmapi_kit.loading.lazy_model import LazyModel
from llmapi_kit.types import Embedded, EngineInfo, EngineStats, Event, GeneratedImage, ImageRequest, Readiness


class LazyEngine:
    """See `llmapi_kit.engines.base.Engine`. Before its model was first loaded, `info` can't tell what it can do.

    Args:
        model: what to load; owned from now on.
        adapters: those that it is loaded with, by name; what is added and removed later goes in and out here. None
            where it takes none.
    """

    def __init__(self, model: LazyModel, adapters: dict[str, str] | None = None) -> None:
        self._model = model
        self._adapter_sources = adapters

    @property
    def adapters(self) -> Adapters | None:
        """Its adapters, also while it is not loaded."""
        return None if self._adapter_sources is None else LazyAdapters(self, self._model, self._adapter_sources)

    @property
    def info(self) -> EngineInfo:
        """See `Engine.info`: the real one once the model was loaded, under the same id."""
        return self._model.info

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """See `Engine.generate`; waits for the model first."""
        async with self.loaded() as engine, aclosing(engine.generate(request)) as events:
            async for event in events:
                yield event

    async def embed(self, inputs: Sequence[str | Sequence[int]], *, cache_salt: str = "") -> list[Embedded]:
        """See `Engine.embed`; waits for the model first."""
        async with self.loaded() as engine:
            return await engine.embed(inputs, cache_salt=cache_salt)

    async def generate_images(self, request: ImageRequest) -> list[GeneratedImage]:
        """See `ImageEngine.generate_images`; waits for the model first."""
        async with self.loaded() as engine:
            if not isinstance(engine, ImageEngine):
                raise UnsupportedFieldError(f"The model {self.info.id!r} makes no images.", param="model")
            return await engine.generate_images(request)

    async def tokenize(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """See `Engine.tokenize`; waits for the model first."""
        async with self.loaded() as engine:
            return await engine.tokenize(text, add_special_tokens=add_special_tokens)

    async def tokenize_chat(self, request: GenerationRequest) -> list[int]:
        """See `Engine.tokenize_chat`; waits for the model first."""
        async with self.loaded() as engine:
            return await engine.tokenize_chat(request)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """See `Engine.detokenize`; waits for the model first."""
        async with self.loaded() as engine:
            return await engine.detokenize(token_ids)

    async def prepare(self) -> None:
        """Wait until the model is loaded, so that `info` tells what it can do.

        Raises:
            EngineUnavailableError: it could not be loaded, or not in time.
        """
        async with self.loaded():
            pass

    def load(self) -> None:
        """Load the model, blocking until it is there; an interrupt ends the wait, not the load.

        Raises:
            LlmApiKitError: what loading it raised.
        """
        self._model.load()

    def unload(self) -> bool:
        """Unload the model unless it is in use, and say whether that was done; the next request loads it again."""
        return self._model.unload()

    def apply(self, settings: Settings) -> None:
        """Go by other `load_wait_s` and `idle_unload_s` from now on."""
        self._model.apply(settings)

    def readiness(self) -> Readiness:
        """See `Engine.readiness`: ready also where the next request would load the model."""
        return self._model.readiness()

    def stats(self) -> EngineStats:
        """See `Engine.stats`: of all the times that the model was loaded; who waits for it is queued."""
        return self._model.stats()

    def close(self) -> None:
        """See `Engine.close`. Does not wait for a load under way: it ends by itself, and what it loaded is closed."""
        self._model.close()

    @contextmanager
    def held(self) -> Iterator[Engine]:
        """The engine, loaded if need be, which stays loaded meanwhile. Blocks.

        Raises:
            LlmApiKitError: what loading it raised.
        """
        settled = threading.Event()

        def wake() -> bool:
            settled.set()
            return True

        lease = self._model.acquire(wake)
        try:
            if not lease.is_settled:
                settled.wait()
            if lease.cause is not None:
                raise lease.cause
            yield self._model.engine_of(lease)
        finally:
            self._model.release(lease)

    @asynccontextmanager
    async def loaded(self) -> AsyncIterator[Engine]:
        """The engine, which stays loaded meanwhile."""
        loop = asyncio.get_running_loop()
        settled: asyncio.Future[None] = loop.create_future()
        lease = self._model.acquire(partial(_wake, loop, settled))
        try:
            if not lease.is_settled:
                await asyncio.wait((settled,), timeout=self._model.load_wait_s)
            yield self._model.engine_of(lease)
        finally:
            self._model.release(lease)


class LazyAdapterEngine(LazyEngine):
    """A model that is loaded when it is first asked for, as it answers with one of its adapters.

    Args:
        model: what to load.
        info: of the adapter, as far as it is known.
    """

    def __init__(self, model: LazyModel, info: EngineInfo) -> None:
        super().__init__(model)
        self._info = info

    @property
    def info(self) -> EngineInfo:
        """See `Engine.info`: what the model can do once it was loaded, under the adapter's name."""
        own = self._info
        return replace(super().info, id=own.id, parent=own.parent, root=own.root, description=own.description)

    @asynccontextmanager
    async def loaded(self) -> AsyncIterator[Engine]:
        """See `LazyEngine.loaded`."""
        async with super().loaded() as engine:
            adapters = adapters_of(engine)
            found = adapters.engines().get(self._info.id) if adapters is not None else None
            if found is None:
                raise NotFoundError(
                    f"The adapter {self._info.id!r} was removed.", param="model", code="model_not_found"
                )
            yield found

    def close(self) -> None:
        """See `Engine.close`. The model is somebody else's to close."""


class LazyAdapters:
    """See `llmapi_kit.engines.adapters.Adapters`. An adapter that is added loads the model.

    Args:
        engine: of the model.
        model: that it loads.
        sources: of the adapters that it is loaded with, by name; shared with whoever loads it.
    """

    def __init__(self, engine: LazyEngine, model: LazyModel, sources: dict[str, str]) -> None:
        self._engine = engine
        self._model = model
        self._sources = sources

    def add(self, source: str, name: str, *, is_replacing: bool = False) -> None:
        """See `Adapters.add`."""
        with self._engine.held() as engine:
            adapters = adapters_of(engine)
            if adapters is None:
                raise ConfigError(f"The model {engine.info.id!r} takes no adapters.")
            adapters.add(source, name, is_replacing=is_replacing)
            self._sources[name] = source

    def remove(self, name: str) -> None:
        """See `Adapters.remove`."""
        if name not in self._sources:
            raise no_such_adapter(self._model.id, name, self._sources)
        if self._engine.readiness().state != "unloaded":
            with self._engine.held() as engine:
                adapters = adapters_of(engine)
                if adapters is not None:
                    adapters.remove(name)
        del self._sources[name]

    def infos(self) -> list[AdapterInfo]:
        """See `Adapters.infos`; of a model that is not loaded, what was asked for."""
        if self._engine.readiness().state == "loaded":
            with self._engine.held() as engine:
                adapters = adapters_of(engine)
                return adapters.infos() if adapters is not None else []
        base = self._model.id
        return [
            AdapterInfo(name, served_name(base, name), source, 0, 0, 0.0, 0) for name, source in self._sources.items()
        ]

    def engines(self) -> Mapping[str, Engine]:
        """See `Adapters.engines`."""
        infos = [adapter_info(self._model.info, name, source) for name, source in self._sources.copy().items()]
        return {info.id: LazyAdapterEngine(self._model, info) for info in infos}


def _wake(loop: asyncio.AbstractEventLoop, settled: asyncio.Future[None]) -> bool:
    """From any thread; whether the loop was still there."""
    try:
        loop.call_soon_threadsafe(_settle, settled)
    except RuntimeError:  # it is closed
        return False
    return True


def _settle(settled: asyncio.Future[None]) -> None:
    if not settled.done():
        settled.set_result(None)
