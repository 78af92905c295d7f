"""An engine whose model is loaded when it is first asked for, and unloaded when it is idle or others need its memory.

Requests wait on their own event loop until the model is there; nothing here blocks one. Whoever makes one closes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial

from llmapi_kit.config import Settings
from llmapi_kit.engines.base import EmbeddingRequest, Engine, GenerationRequest, ImageEngine, ScoreRequest
from llmapi_kit.engines.embedder import embedder_of
from llmapi_kit.errors import UnsupportedFieldError
from llmapi_kit.loading.lazy_model import LazyModel
from llmapi_kit.types import Embedded, EngineInfo, EngineStats, Event, GeneratedImage, ImageRequest, Readiness, Score


class LazyEngine:
    """See `llmapi_kit.engines.base.Engine`. Before its model was first loaded, `info` can't tell what it can do.

    Args:
        model: what to load; owned from now on.
    """

    def __init__(self, model: LazyModel) -> None:
        self._model = model

    @property
    def info(self) -> EngineInfo:
        """See `Engine.info`: the real one once the model was loaded, under the same id."""
        return self._model.info

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """See `Engine.generate`; waits for the model first."""
        async with self._loaded() as engine, aclosing(engine.generate(request)) as events:
            async for event in events:
                yield event

    async def embed(self, inputs: Sequence[str | Sequence[int]], *, cache_salt: str = "") -> list[Embedded]:
        """See `Engine.embed`; waits for the model first."""
        async with self._loaded() as engine:
            return await engine.embed(inputs, cache_salt=cache_salt)

    async def embed_request(self, request: EmbeddingRequest) -> list[Embedded]:
        """See `Embedder.embed_request`; waits for the model first."""
        async with self._loaded() as engine:
            return await embedder_of(engine).embed_request(request)

    async def score(self, request: ScoreRequest) -> list[Score]:
        """See `Embedder.score`; waits for the model first."""
        async with self._loaded() as engine:
            return await embedder_of(engine).score(request)

    async def generate_images(self, request: ImageRequest) -> list[GeneratedImage]:
        """See `ImageEngine.generate_images`; waits for the model first."""
        async with self._loaded() as engine:
            if not isinstance(engine, ImageEngine):
                raise UnsupportedFieldError(f"The model {self.info.id!r} makes no images.", param="model")
            return await engine.generate_images(request)

    async def tokenize(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """See `Engine.tokenize`; waits for the model first."""
        async with self._loaded() as engine:
            return await engine.tokenize(text, add_special_tokens=add_special_tokens)

    async def tokenize_chat(self, request: GenerationRequest) -> list[int]:
        """See `Engine.tokenize_chat`; waits for the model first."""
        async with self._loaded() as engine:
            return await engine.tokenize_chat(request)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """See `Engine.detokenize`; waits for the model first."""
        async with self._loaded() as engine:
            return await engine.detokenize(token_ids)

    async def prepare(self) -> None:
        """Wait until the model is loaded, so that `info` tells what it can do.

        Raises:
            EngineUnavailableError: it could not be loaded, or not in time.
        """
        async with self._loaded():
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

    @asynccontextmanager
    async def _loaded(self) -> AsyncIterator[Engine]:
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
