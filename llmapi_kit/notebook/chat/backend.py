"""Who answers a chat: the protocol, and a model of this process that nobody serves.

`stream` runs on the loop of a session's worker thread; `models` blocks. Knows nothing of conversations or widgets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from llmapi_kit.engines.base import DeferredEngine, Engine, GenerationRequest, ToolUse
from llmapi_kit.engines.image_parts import image_parts, refusal
from llmapi_kit.sampling.parameters import SamplingParams, with_off_values
from llmapi_kit.types import Delta, Failed, Finished


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What to answer.

    Attributes:
        model: which model; empty for the first.
        messages: OpenAI-shaped, oldest first.
        sampling: parameters that are set.
        tools: OpenAI-shaped definitions of what may be called.
    """

    model: str
    messages: Sequence[Mapping[str, Any]]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model there is to choose.

    Attributes:
        name: what requests name.
        sees: whether it takes pictures; None where nobody says.
    """

    name: str
    sees: bool | None = None


class Backend(Protocol):
    """Answers a chat. `url` is None for a model of this process."""

    @property
    def url(self) -> str | None:
        """What OpenAI clients take as ``base_url``."""
        ...

    def models(self) -> list[ModelChoice]:
        """The models there are to choose from, the default first. Blocks; may be called from any thread.

        Raises:
            LlmApiKitError: nobody answers, or refuses the key.
        """
        ...

    def stream(self, request: ChatRequest) -> AsyncGenerator[Delta | Finished, None]:
        """Pieces of the answer, then one `Finished`. Cancelling ends the generation.

        Raises:
            Exception: whatever went wrong; see `llmapi_kit.notebook.chat.failure.explain`.
        """
        ...


class EngineBackend:
    """A model of this process, asked directly. See `Backend`.

    Args:
        engine: who answers; not closed by this.
    """

    url = None

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def models(self) -> list[ModelChoice]:
        """See `Backend.models`."""
        info = self._engine.info
        return [ModelChoice(info.id, can_see(info.capabilities))]

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta | Finished, None]:
        """See `Backend.stream`. A model that is loaded when it is first asked is loaded now."""
        if isinstance(self._engine, DeferredEngine):
            await asyncio.to_thread(self._engine.load)
        async with aclosing(self._engine.generate(self._generation(request))) as events:
            async for event in events:
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Delta | Finished):
                    yield event

    def _generation(self, request: ChatRequest) -> GenerationRequest:
        """A model without a chat template continues the last question."""
        params = SamplingParams(**with_off_values({**self._engine.info.defaults, **request.sampling}))
        if "chat" not in self._engine.info.capabilities:
            if images := image_parts(request.messages):
                raise refusal(images[0].param)
            return GenerationRequest(prompt=str(request.messages[-1]["content"]), sampling=params)
        tools = ToolUse(request.tools) if request.tools else None
        return GenerationRequest(messages=request.messages, sampling=params, tools=tools)


def can_see(capabilities: Collection[str]) -> bool | None:
    """Whether a model takes pictures; None for one that is not loaded yet, which has no capabilities."""
    return "vision" in capabilities if capabilities else None
