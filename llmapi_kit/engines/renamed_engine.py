"""An engine under another name than its own: what clients pass as ``model`` is decided where it is loaded."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from llmapi_kit.engines.base import EmbeddingRequest, Engine, GenerationRequest, ImageEngine, ScoreRequest
from llmapi_kit.engines.embedder import embedder_of
from llmapi_kit.errors import UnsupportedFieldError
from llmapi_kit.types import Embedded, EngineInfo, EngineStats, Event, GeneratedImage, ImageRequest, Readiness, Score


def renamed(engine: Engine, name: str) -> Engine:
    """The engine under a name; itself, if that is its own."""
    return engine if engine.info.id == name else RenamedEngine(engine, name)


class RenamedEngine:
    """See `llmapi_kit.engines.base.Engine`: another engine in all but its name.

    Args:
        engine: owned from now on: closed with this one.
        name: what clients pass as ``model``.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self.info: EngineInfo = replace(engine.info, id=name)
        self._engine = engine

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """See `Engine.generate`."""
        return self._engine.generate(request)

    async def embed(self, inputs: Sequence[str | Sequence[int]], *, cache_salt: str = "") -> list[Embedded]:
        """See `Engine.embed`."""
        return await self._engine.embed(inputs, cache_salt=cache_salt)

    async def embed_request(self, request: EmbeddingRequest) -> list[Embedded]:
        """See `Embedder.embed_request`."""
        return await embedder_of(self._engine).embed_request(request)

    async def score(self, request: ScoreRequest) -> list[Score]:
        """See `Embedder.score`."""
        return await embedder_of(self._engine).score(request)

    async def generate_images(self, request: ImageRequest) -> list[GeneratedImage]:
        """See `ImageEngine.generate_images`."""
        if not isinstance(self._engine, ImageEngine):
            raise UnsupportedFieldError(f"The model {self.info.id!r} makes no images.", param="model")
        return await self._engine.generate_images(request)

    async def tokenize(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """See `Engine.tokenize`."""
        return await self._engine.tokenize(text, add_special_tokens=add_special_tokens)

    async def tokenize_chat(self, request: GenerationRequest) -> list[int]:
        """See `Engine.tokenize_chat`."""
        return await self._engine.tokenize_chat(request)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """See `Engine.detokenize`."""
        return await self._engine.detokenize(token_ids)

    def readiness(self) -> Readiness:
        """See `Engine.readiness`."""
        return self._engine.readiness()

    def stats(self) -> EngineStats:
        """See `Engine.stats`."""
        return self._engine.stats()

    def close(self) -> None:
        """See `Engine.close`."""
        self._engine.close()
