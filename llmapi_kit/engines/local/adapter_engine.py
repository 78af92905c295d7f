"""A local model as it answers with one adapter: the same slots and steps, and a name of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from llmapi_kit.engines.base import Engine, GenerationRequest
from llmapi_kit.engines.local.loaded_adapter import LoadedAdapter
from llmapi_kit.types import Embedded, EngineInfo, EngineStats, Event, Readiness


class Answering(Engine, Protocol):
    """A local engine, which answers with an adapter where it is told one."""

    def generate(
        self, request: GenerationRequest, *, adapter: LoadedAdapter | None = None
    ) -> AsyncGenerator[Event, None]:
        """See `Engine.generate`."""
        ...

    async def embed(
        self, inputs: Sequence[str | Sequence[int]], *, cache_salt: str = "", adapter: LoadedAdapter | None = None
    ) -> list[Embedded]:
        """See `Engine.embed`."""
        ...

    async def tokenize_chat(self, request: GenerationRequest, *, adapter: LoadedAdapter | None = None) -> list[int]:
        """See `Engine.tokenize_chat`."""
        ...


class AdapterEngine:
    """See `llmapi_kit.engines.base.Engine`.

    Args:
        engine: of the model.
        adapter: that its requests go through.
        info: what it tells of itself.
    """

    def __init__(self, engine: Answering, adapter: LoadedAdapter, info: EngineInfo) -> None:
        self.info = info
        self._engine = engine
        self._adapter = adapter

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """See `Engine.generate`."""
        return self._engine.generate(request, adapter=self._adapter)

    async def embed(self, inputs: Sequence[str | Sequence[int]], *, cache_salt: str = "") -> list[Embedded]:
        """See `Engine.embed`."""
        return await self._engine.embed(inputs, cache_salt=cache_salt, adapter=self._adapter)

    async def tokenize(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """See `Engine.tokenize`."""
        return await self._engine.tokenize(text, add_special_tokens=add_special_tokens)

    async def tokenize_chat(self, request: GenerationRequest) -> list[int]:
        """See `Engine.tokenize_chat`: with the adapter's chat template, where it has one."""
        return await self._engine.tokenize_chat(request, adapter=self._adapter)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """See `Engine.detokenize`."""
        return await self._engine.detokenize(token_ids)

    def readiness(self) -> Readiness:
        """See `Engine.readiness`."""
        if self._adapter.is_removed:
            return Readiness(False, f"The adapter {self.info.id!r} was removed.", "unloaded")
        return self._engine.readiness()

    def stats(self) -> EngineStats:
        """See `Engine.stats`: of the model with all of its adapters, whose requests share steps."""
        return self._engine.stats()

    def close(self) -> None:
        """See `Engine.close`. The model's engine is somebody else's to close."""
