"""What chat completions and completions share: start a generation, collect it, or stream it.

Runs on the server's event loop. Knows engines and events; the two endpoints bring their JSON.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from llmapi_kit.api.errors import error_body
from llmapi_kit.api.sse import DONE
from llmapi_kit.api.state import ApiState
from llmapi_kit.api.timed_events import TimedEvents
from llmapi_kit.engines.base import Engine, GenerationRequest
from llmapi_kit.types import Accepted, Delta, Failed, Finished, TokenLogprob


@dataclass(slots=True)
class Answer:
    """A complete answer."""

    index: int
    text: str
    finished: Finished
    logprobs: list[TokenLogprob]


class Chunks(Protocol):
    """The JSON of a stream's chunks, for one endpoint."""

    def first(self, index: int) -> bytes | None:
        """A frame before any text of an answer, or None."""
        ...

    def delta(self, delta: Delta) -> bytes:
        """A frame with a piece of text."""
        ...

    def last(self, finished: Finished) -> bytes:
        """The frame that says why it ended."""
        ...

    def usage(self, finished: Sequence[Finished]) -> bytes:
        """The frame with the usage and no choices."""
        ...


@dataclass(slots=True)
class Generation:
    """One accepted generation; close it whatever happens.

    Attributes:
        state: of the server.
        events: what is still to come after `Accepted`.
        model: the name the answer carries.
        id: of the answer.
        num_answers: how many are to come.
        created: Unix time in seconds.
    """

    state: ApiState
    events: TimedEvents
    model: str
    id: str
    num_answers: int
    created: int = field(default_factory=lambda: int(time.time()))

    async def collect(self) -> list[Answer]:
        """Wait for all answers, in order; on cancellation the generation stops.

        Raises:
            RequestError: it failed.
        """
        texts: list[list[str]] = [[] for _ in range(self.num_answers)]
        logprobs: list[list[TokenLogprob]] = [[] for _ in range(self.num_answers)]
        answers: list[Answer] = []
        try:
            async for event in self.events:
                if isinstance(event, Delta):
                    texts[event.index].append(event.text)
                    logprobs[event.index].extend(event.logprobs)
                elif isinstance(event, Finished):
                    answers.append(Answer(event.index, "".join(texts[event.index]), event, logprobs[event.index]))
                elif isinstance(event, Failed):
                    raise event.error
        finally:
            await self.close()
        if len(answers) != self.num_answers:
            raise RuntimeError(f"The engine ended after {len(answers)} of {self.num_answers} answers.")
        return sorted(answers, key=lambda answer: answer.index)

    async def stream(self, chunks: Chunks, *, include_usage: bool) -> AsyncGenerator[bytes, None]:
        """SSE frames, the last one ``[DONE]``, or an error."""
        finished: list[Finished] = []
        try:
            for index in range(self.num_answers):
                if (first := chunks.first(index)) is not None:
                    yield first
            async for event in self.events:
                if isinstance(event, Delta):
                    if event.text or event.logprobs:
                        yield chunks.delta(event)
                elif isinstance(event, Finished):
                    yield chunks.last(event)
                    finished.append(event)
                elif isinstance(event, Failed):
                    yield frame(error_body(event.error))
                    return
            if include_usage:
                yield chunks.usage(finished)
            yield DONE
        finally:
            await self.close()

    async def close(self) -> None:
        """Stop the generation if it still runs. Also for one that was never collected or streamed."""
        self.state.active.discard(self.events)
        await self.events.aclose()


async def start(state: ApiState, engine: Engine, request: GenerationRequest, id_prefix: str) -> Generation:
    """Hand a request to its engine and wait until it is accepted.

    Raises:
        RequestError: it was not.
    """
    state.check_open()
    events = TimedEvents(engine.generate(request), state.settings)
    state.active.add(events)  # before it is accepted: a server that stops ends it there too
    try:
        event = await events.__anext__()
        if isinstance(event, Failed):
            raise event.error
        if not isinstance(event, Accepted):
            raise RuntimeError(f"{type(engine).__name__} began with {type(event).__name__}, not with Accepted")
    except BaseException:
        state.active.discard(events)
        await events.aclose()
        raise
    return Generation(state, events, engine.info.id, id_prefix + secrets.token_hex(12), request.n)


def usage_of(finished: Sequence[Finished]) -> dict[str, Any]:
    """OpenAI's usage object for all answers of a request; candidates that `best_of` dropped count too."""
    num_prompt = finished[0].num_prompt_tokens
    num_made = sum(answer.num_completion_tokens + answer.num_discarded_tokens for answer in finished)
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_made,
        "total_tokens": num_prompt + num_made,
        # of several answers, the first is the one whose prompt had to be computed
        "prompt_tokens_details": {"cached_tokens": min(answer.num_cached_tokens for answer in finished)},
    }


def frame(body: object) -> bytes:
    """One SSE frame of a JSON object."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
