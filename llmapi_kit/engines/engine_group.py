"""What engines have in common that are several in one: what gives a single result is asked of one of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from llmapi_kit.engines.base import EmbeddingRequest, Engine, ScoreRequest
from llmapi_kit.engines.embedder import embedder_of
from llmapi_kit.types import Embedded, EngineStats, Score

T = TypeVar("T")


class EngineGroup(ABC):
    """The methods of `llmapi_kit.engines.base.Engine` that are the same whichever engine is asked.

    Attributes:
        _engines: all of them.
    """

    _engines: tuple[Engine, ...]

    @abstractmethod
    async def _ask(self, ask: Callable[[Engine], Awaitable[T]]) -> T:
        """What one of the engines gives.

        Raises:
            RequestError: none of them can.
        """

    async def embed(self, inputs: Sequence[str | Sequence[int]], *, cache_salt: str = "") -> list[Embedded]:
        """See `Engine.embed`."""
        return await self._ask(lambda engine: engine.embed(inputs, cache_salt=cache_salt))

    async def embed_request(self, request: EmbeddingRequest) -> list[Embedded]:
        """See `Embedder.embed_request`."""
        return await self._ask(lambda engine: embedder_of(engine).embed_request(request))

    async def score(self, request: ScoreRequest) -> list[Score]:
        """See `Embedder.score`."""
        return await self._ask(lambda engine: embedder_of(engine).score(request))

    def stats(self) -> EngineStats:
        """See `Engine.stats`: of all of them together."""
        return EngineStats.together([engine.stats() for engine in self._engines])
