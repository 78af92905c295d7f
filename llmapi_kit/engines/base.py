"""The Engine protocol: whatever can answer a request. The API knows nothing else.

An engine is made by `llmapi_kit.kit.load` or by a third party. All of its methods may be called from any thread
and any event loop; `generate` runs on the caller's loop.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import EngineInfo, EngineStats, Event, Readiness

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """What to answer: a conversation, or a prompt as text or token ids. Exactly one of the two is set.

    Attributes:
        messages: OpenAI-shaped messages: ``role`` and ``content`` (text), oldest first.
        prompt: text, or token ids, to continue.
        sampling: how to choose tokens and when to stop.
        n: how many answers to make; with a seed, each draws other numbers from it.
        best_of: candidates to make, of which the n with the highest mean log-probability a token are given, when all
            are complete; 0 for no more than n.
        cache_salt: cached prefixes are shared between requests with the same one only.
        id: for logs.
    """

    messages: Sequence[Message] | None = None
    prompt: str | Sequence[int] | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    n: int = 1
    best_of: int = 0
    cache_salt: str = ""
    id: str = field(default_factory=lambda: secrets.token_hex(8))

    def __post_init__(self) -> None:
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("A GenerationRequest has either messages or a prompt.")
        if self.n < 1 or (self.best_of and self.best_of < self.n):
            raise ValueError(f"n is {self.n}, best_of is {self.best_of}: n is at least 1, best_of at least n.")


@runtime_checkable
class Engine(Protocol):
    """Answers requests. `llmapi_kit.engines.mock.MockEngine` is the smallest complete one."""

    @property
    def info(self) -> EngineInfo:
        """What it is; constant while it lives."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """Answer a request.

        The first event is `Accepted`; the last one is `Failed`, or the `Finished` of the last of n answers.
        Closing the generator, or cancelling the task that waits for it, stops the generation.

        Raises:
            RequestError: before the first event, when the request can't be taken: bad values, prompt over the
                context, queue full, engine closed.
        """
        ...

    async def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, without the special tokens that a prompt would get."""
        ...

    def readiness(self) -> Readiness:
        """Whether a request sent now would be answered, and why not."""
        ...

    def stats(self) -> EngineStats:
        """A snapshot of its counters."""
        ...

    def close(self) -> None:
        """Stop; requests under way end in `Failed`. Safe to call twice. May block for some seconds."""
        ...
