"""What engines have in common whose model is elsewhere, in a process or a cluster: most of it is one call there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from llmapi_kit.engines.base import EmbeddingRequest, GenerationRequest, ScoreRequest
from llmapi_kit.types import Embedded, GeneratedImage, ImageRequest, Score


class RemoteEngine(ABC):
    """The methods of `llmapi_kit.engines.base.Engine` that give one answer; see there and the protocols beside it."""

    @abstractmethod
    async def _call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """What a method of the engine that has the model returns.

        Raises:
            RequestError: what it raised, or that it is gone.
        """

    async def embed(self, inputs: Sequence[str | Sequence[int]], *, cache_salt: str = "") -> list[Embedded]:
        """See `Engine.embed`."""
        embedded: list[Embedded] = await self._call("embed", list(inputs), cache_salt=cache_salt)
        return embedded

    async def embed_request(self, request: EmbeddingRequest) -> list[Embedded]:
        """See `Embedder.embed_request`."""
        embedded: list[Embedded] = await self._call("embed_request", request)
        return embedded

    async def score(self, request: ScoreRequest) -> list[Score]:
        """See `Embedder.score`."""
        scores: list[Score] = await self._call("score", request)
        return scores

    async def generate_images(self, request: ImageRequest) -> list[GeneratedImage]:
        """See `ImageEngine.generate_images`."""
        images: list[GeneratedImage] = await self._call("generate_images", request)
        return images

    async def tokenize(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """See `Engine.tokenize`."""
        ids: list[int] = await self._call("tokenize", text, add_special_tokens=add_special_tokens)
        return ids

    async def tokenize_chat(self, request: GenerationRequest) -> list[int]:
        """See `Engine.tokenize_chat`."""
        ids: list[int] = await self._call("tokenize_chat", request)
        return ids

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """See `Engine.detokenize`."""
        text: str = await self._call("detokenize", list(token_ids))
        return text
