"""What all endpoints that generate text share: start a generation, collect it, or stream it.

Runs on the server's event loop. Knows engines and events; the endpoints bring their JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from llmapi_kit.api.errors import error_body, from_store
from llmapi_kit.api.limiter import Admission
from llmapi_kit.api.openai.answer_collector import AnswerCollector, ChatAnswer
from llmapi_kit.api.openai.request_body import StreamOptions
from llmapi_kit.api.request_record import note_error
from llmapi_kit.api.sse import DONE, LastFrame
from llmapi_kit.api.state import ApiState
from llmapi_kit.api.timed_events import TimedEvents
from llmapi_kit.api.token_estimate import request_tokens
from llmapi_kit.config import Settings
from llmapi_kit.engines.base import Engine, GenerationRequest
from llmapi_kit.engines.multi_prompt import generate_prompts
from llmapi_kit.errors import InvalidRequestError, RequestCancelledError, RequestError, StoreError
from llmapi_kit.ids import random_hex
from llmapi_kit.store.counts import Counts
from llmapi_kit.types import Accepted, Delta, Failed, Finished

OnComplete = Callable[[list[ChatAnswer]], Awaitable[None]]


class StreamFormat(Protocol):
    """The frames of a stream, for one endpoint; how it ends is OpenAI's way unless an endpoint has its own.

    Attributes:
        opens_at_once: whether what stands before any text is sent alone, as soon as the engine has taken the request.
    """

    opens_at_once: bool = False

    def first(self, index: int) -> bytes | None:
        """A frame before any text of an answer, or None."""
        return None

    def delta(self, delta: Delta) -> bytes | None:
        """A frame with a piece of an answer, or None."""
        ...

    def last(self, finished: Finished) -> bytes | None:
        """The frame that says why an answer ended, or None."""
        return None

    def usage(self, usage: dict[str, Any]) -> bytes | None:
        """The frame with the usage and nothing else, or None."""
        return None

    def failed(self, error: RequestError) -> bytes:
        """The frame that ends a stream which failed."""
        return frame(error_body(error))

    def end(self) -> bytes | None:
        """The frame that ends a complete one, or None."""
        return DONE


class ChunkUsage:
    """The field `usage` of a stream's chunks, as `stream_options` asks for it.

    Without `include_usage` there is none. With it, chunks have it and say null, but for the last one, which has no
    choices. With `continuous_usage_stats` each says what was used so far.
    """

    def __init__(self, generation: Generation, options: StreamOptions | None) -> None:
        self._generation = generation
        self._is_continuous = bool(options and options.continuous_usage_stats)
        self.is_there = self._is_continuous or bool(options and options.include_usage)

    def field(self) -> dict[str, Any]:
        """What a chunk made now has of it."""
        if not self.is_there:
            return {}
        return {"usage": self._generation.usage_so_far() if self._is_continuous else None}


@dataclass(slots=True)
class Generation:
    """One accepted generation; close it whatever happens.

    Attributes:
        state: of the server.
        events: what is still to come after `Accepted`.
        model: the name the answer carries.
        id: of the answer.
        num_answers: how many are to come.
        num_answers_a_prompt: how many of them belong to the same prompt.
        num_prompt_tokens: length of all prompts.
        admission: through the key's limits, where it has any.
        created: Unix time in seconds.
    """

    state: ApiState
    events: TimedEvents
    model: str
    id: str
    num_answers: int
    num_answers_a_prompt: int
    num_prompt_tokens: int
    admission: Admission | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    _finished: list[Finished] = field(default_factory=list)
    _num_made: int = 0
    _num_reasoning_tokens: int = 0
    _has_failed: bool = False
    _is_counted: bool = False

    async def collect(self) -> list[ChatAnswer]:
        """Wait for all answers, in order; on cancellation the generation stops.

        Raises:
            RequestError: it failed.
        """
        collector = AnswerCollector(self.num_answers)
        async with aclosing(self.follow()) as events:
            async for event in events:
                collector.add(event)
        return collector.complete()

    async def follow(self) -> AsyncGenerator[Delta | Finished, None]:
        """What comes, for whoever makes something else of it; closing it stops the generation.

        Raises:
            RequestError: it failed.
        """
        try:
            async for event in self.events:
                if isinstance(event, Delta):
                    self._num_made += event.num_tokens
                    if event.reasoning:
                        self._num_reasoning_tokens += event.num_tokens
                    yield event
                elif isinstance(event, Finished):
                    self._finished.append(event)
                    yield event
                elif isinstance(event, Failed):
                    raise event.error
        except RequestCancelledError:
            raise
        except Exception:
            self._has_failed = True
            raise
        finally:
            await self.close()

    async def stream(
        self, chunks: StreamFormat, *, include_usage: bool, on_complete: OnComplete | None = None
    ) -> AsyncGenerator[bytes, None]:
        """SSE frames; the last one says that it is complete, or why it failed.

        Frames that have nothing to wait for come together: what opens the stream with the first piece, what ends an
        answer with what ends the stream. Each part is a call of the system here, and one where it is read.

        Args:
            chunks: their JSON.
            include_usage: send the usage.
            on_complete: awaited with the whole answers before the last frame; not if it failed or the client left.
        """
        collector = None if on_complete is None else AnswerCollector(self.num_answers)
        ready = b"".join(chunks.first(index) or b"" for index in range(self.num_answers))
        try:
            if chunks.opens_at_once:
                yield ready
                ready = b""
            async with aclosing(self.follow()) as events:
                async for event in events:
                    if collector is not None:
                        collector.add(event)
                    if isinstance(event, Finished):
                        ready += chunks.last(event) or b""
                        is_due = len(self._finished) < self.num_answers  # the last one's goes with the stream's end
                    else:
                        piece = chunks.delta(event) if _says_something(event) else None
                        ready += piece or b""
                        is_due = piece is not None
                    if is_due and ready:
                        yield ready
                        ready = b""
            if on_complete is not None and collector is not None:
                await on_complete(collector.complete())
        except RequestError as exc:
            note_error(exc.code)
            yield LastFrame(ready + chunks.failed(exc))
            return
        except StoreError as exc:
            yield LastFrame(ready + chunks.failed(from_store(exc)))
            return
        if include_usage:
            ready += chunks.usage(self.usage()) or b""
        yield LastFrame(ready + (chunks.end() or b""))

    def usage(self) -> dict[str, Any]:
        """OpenAI's usage object for all answers; candidates that `best_of` dropped count too."""
        by_prompt: dict[int, list[Finished]] = {}
        for finished in self._finished:
            by_prompt.setdefault(finished.index // self.num_answers_a_prompt, []).append(finished)
        num_prompt = sum(answers[0].num_prompt_tokens for answers in by_prompt.values())
        num_made = sum(each.num_completion_tokens + each.num_discarded_tokens for each in self._finished)
        # of several answers, the first is the one whose prompt had to be computed
        num_cached = sum(min(answer.num_cached_tokens for answer in answers) for answers in by_prompt.values())
        details = {"cached_tokens": num_cached}
        if num_images := sum(answers[0].num_image_tokens for answers in by_prompt.values()):
            details["image_tokens"] = num_images
        usage: dict[str, Any] = {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_made,
            "total_tokens": num_prompt + num_made,
            "prompt_tokens_details": details,
        }
        if self._num_reasoning_tokens:
            usage["completion_tokens_details"] = {"reasoning_tokens": self._num_reasoning_tokens}
        return usage

    def usage_so_far(self) -> dict[str, int]:
        """What a generation that still runs has taken."""
        made = self._num_made
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": made,
            "total_tokens": self.num_prompt_tokens + made,
        }

    def _count(self) -> None:
        """Count the generation once, however it ended."""
        if self._is_counted:
            return
        self._is_counted = True
        counts = Counts(requests=1, prompt_tokens=self.num_prompt_tokens, completion_tokens=self._num_made)
        if len(self._finished) == self.num_answers:
            usage = self.usage()
            counts.prompt_tokens = usage["prompt_tokens"]
            counts.cached_tokens = usage["prompt_tokens_details"]["cached_tokens"]
            counts.completion_tokens = usage["completion_tokens"]
        elif self._has_failed:
            counts.failed = 1
        else:
            counts.cancelled = 1
        self.state.count_usage(self.model, counts)
        if self.admission is not None:
            self.admission.settle(counts.tokens)

    async def close(self) -> None:
        """Stop the generation if it still runs, and count it. Also for one that was never collected or streamed."""
        self._count()
        self.state.forget(self.events)
        await self.events.aclose()


def _says_something(delta: Delta) -> bool:
    return bool(delta.text or delta.logprobs or delta.reasoning or delta.tool_calls)


async def start(state: ApiState, engine: Engine, requests: Sequence[GenerationRequest], id_prefix: str) -> Generation:
    """Hand requests, one a prompt, to their engine and wait until they are accepted.

    Raises:
        RequestError: they were not.
    """
    _check_limits(state.settings, requests[0])
    admission = await state.admit(lambda: request_tokens(requests))
    answer_id, model = new_id(id_prefix), engine.info.id
    keyed = [replace(request, key_id=state.caller.id) for request in requests]
    events = TimedEvents(generate_prompts(engine, keyed), state.settings, request_id=answer_id, model=model)
    state.active.add(events)  # before it is accepted: a server that stops ends it there too
    try:
        event = await events.__anext__()
        if isinstance(event, Failed):
            raise event.error
        if not isinstance(event, Accepted):
            raise RuntimeError(f"{type(engine).__name__} began with {type(event).__name__}, not with Accepted")
    except BaseException:
        state.forget(events)
        if admission is not None:
            admission.settle(0)
        await events.aclose()
        raise
    n = requests[0].n
    return Generation(state, events, model, answer_id, len(requests) * n, n, event.num_prompt_tokens, admission)


def _check_limits(settings: Settings, request: GenerationRequest) -> None:
    """Raise where a request asks for more than this server gives anybody."""
    asked = {
        "n": (request.n, "answers", "max_answers"),
        "best_of": (request.best_of, "candidates", "max_answers"),
        "stop": (len(request.sampling.stop), "stop strings", "max_stop_strings"),
    }
    for param, (num, what, setting) in asked.items():
        most: int = getattr(settings, setting)
        if num > most:
            raise InvalidRequestError(
                f"The request asks for {num} {what}; this server takes at most {most} (its setting {setting}).",
                param=param,
            )


def new_id(prefix: str) -> str:
    """An id of 24 hexadecimal digits that sorts by when it was made: nanoseconds first, then chance."""
    return f"{prefix}{time.time_ns():016x}{random_hex(8)}"


def frame(body: object) -> bytes:
    """One SSE frame of a JSON object."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
