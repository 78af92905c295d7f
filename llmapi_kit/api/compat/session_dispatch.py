"""How sessions run an engine on this server: its time limits, its counting, its way to stop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from llmapi_kit.api.openai.embeddings import embed
from llmapi_kit.api.openai.generation import start
from llmapi_kit.api.openai.images import make_images
from llmapi_kit.api.state import ApiState
from llmapi_kit.engines.base import Engine, GenerationRequest
from llmapi_kit.types import Delta, Finished, GeneratedImage, ImageRequest


class ServerDispatch:
    """See `llmapi_kit.sessions.bot_reply.Dispatch`.

    Args:
        state: of the server.
    """

    def __init__(self, state: ApiState) -> None:
        self._state = state

    async def generate(self, engine: Engine, request: GenerationRequest) -> AsyncGenerator[Delta | Finished, None]:
        """See `Dispatch.generate`."""
        generation = await start(self._state, engine, [request], "session-")
        async with aclosing(generation.follow()) as events:
            async for event in events:
                yield event

    async def embed(self, engine: Engine, text: str) -> Sequence[float]:
        """See `Dispatch.embed`."""
        return (await embed(self._state, engine, [text]))[0].vector

    async def draw(self, engine: Engine, request: ImageRequest) -> GeneratedImage:
        """See `Dispatch.draw`."""
        return (await make_images(self._state, engine, request))[0]
