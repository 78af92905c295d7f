"""A model in this process: chat template and tokenizer in front, batching loop behind.

Knows nothing of HTTP. Templating and tokenizing run in worker threads, generation on the loop's own thread, so the
event loop of whoever asks is never held up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from llmapi_kit.batching.loop import BatchingLoop, Outbox
from llmapi_kit.batching.request import Request
from llmapi_kit.config import Settings
from llmapi_kit.engines.base import GenerationRequest, Message
from llmapi_kit.engines.best_of import choose_best
from llmapi_kit.engines.channel import Channel, deliver
from llmapi_kit.errors import ContextLengthError, InvalidRequestError
from llmapi_kit.runners.base import Runner
from llmapi_kit.sampling.detokenize import Detokenizer
from llmapi_kit.types import Accepted, EngineInfo, EngineStats, Event, Failed, Finished, Readiness


class TextCodec(Protocol):
    """Text to token ids and back; `llmapi_kit.sampling.tokenizer.ModelTokenizer` is the real one.

    Attributes:
        eos_ids: tokens that end an answer.
    """

    eos_ids: frozenset[int]

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text. Thread-safe."""
        ...

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation, ready for the answer. Thread-safe.

        Raises:
            InvalidRequestError: the model has no chat template, or it refuses these messages.
        """
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token stands for; empty for special tokens."""
        ...

    def detokenizer(self) -> Detokenizer:
        """A fresh one for one answer."""
        ...


class LocalEngine:
    """See `llmapi_kit.engines.base.Engine`.

    Args:
        info: what it tells of itself; `context_length` is taken from the runner.
        runner: owned from now on: closed with the engine.
        codec: tokenizer and chat template.
        max_queue: requests that may wait for a slot.
        settings: step size, queue timeout and prefix cache.
    """

    def __init__(
        self,
        info: EngineInfo,
        runner: Runner,
        codec: TextCodec,
        *,
        max_queue: int = 128,
        settings: Settings | None = None,
    ) -> None:
        settings = settings or Settings()
        self.info = info
        self._codec = codec
        self._is_cache_per_key = settings.prefix_cache == "per_key"
        self._max_length = runner.max_length
        self._vocab_size = runner.vocab_size
        self._loop = BatchingLoop(
            runner,
            self._deliver,
            eos_ids=codec.eos_ids,
            token_bytes=codec.token_bytes,
            max_queue=max_queue,
            step_tokens=settings.step_tokens,
            max_stall_s=settings.max_stall_s,
            queue_timeout_s=settings.queue_timeout_s,
            has_prefix_cache=settings.prefix_cache != "off",
            name=f"llmapi_kit engine {info.id}",
        )

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """See `Engine.generate`."""
        prompt_ids = await asyncio.to_thread(self._prompt_ids, request)
        max_new_tokens = self._max_new_tokens(request, prompt_ids)
        sampling = request.sampling
        if request.best_of > request.n and sampling.logprobs is None:
            sampling = replace(sampling, logprobs=0)  # candidates are compared by them
        channel = Channel()
        candidates = [
            Request(
                id=request.id,
                prompt_ids=prompt_ids,
                params=sampling,
                max_new_tokens=max_new_tokens,
                detokenizer=self._codec.detokenizer(),
                index=index,
                cache_salt=request.cache_salt if self._is_cache_per_key else "",
                channel=channel,
            )
            for index in range(max(request.n, request.best_of))
        ]
        self._loop.submit(*candidates)
        try:
            yield Accepted(len(prompt_ids))
            if request.best_of > request.n:
                for event in await choose_best(channel, request):
                    yield event
                return
            num_left = request.n
            while num_left:
                event = await channel.receive()
                num_left -= isinstance(event, Finished)
                yield event
                if isinstance(event, Failed):
                    return
        finally:
            for candidate in candidates:
                if not candidate.is_done:
                    self._loop.abort(candidate)

    async def tokenize(self, text: str) -> list[int]:
        """See `Engine.tokenize`."""
        return await asyncio.to_thread(self._codec.encode, text, add_special_tokens=False)

    def readiness(self) -> Readiness:
        """See `Engine.readiness`."""
        return self._loop.readiness()

    def stats(self) -> EngineStats:
        """See `Engine.stats`."""
        return self._loop.stats()

    def close(self) -> None:
        """See `Engine.close`."""
        self._loop.close()

    def _prompt_ids(self, request: GenerationRequest) -> list[int]:
        """Token ids of the prompt, checked; runs in a worker thread."""
        if request.messages is not None:
            ids = self._codec.encode_chat(request.messages)
        elif isinstance(request.prompt, str):
            ids = self._codec.encode(request.prompt, add_special_tokens=True)
        else:
            ids = list(request.prompt or ())
        if not ids:
            raise InvalidRequestError("The prompt is empty; it must have at least one token.", param="prompt")
        if request.messages is None and not isinstance(request.prompt, str):
            self._check_ids("prompt", ids)
        self._check_ids("logit_bias", request.sampling.logit_bias)
        self._check_ids("stop_token_ids", request.sampling.stop_token_ids)
        return ids

    def _check_ids(self, param: str, ids: Iterable[int]) -> None:
        wrong = [token_id for token_id in ids if not 0 <= token_id < self._vocab_size]
        if wrong:
            raise InvalidRequestError(
                f"{param} has token id {wrong[0]}; this model's ids go from 0 to {self._vocab_size - 1}.", param=param
            )

    def _max_new_tokens(self, request: GenerationRequest, prompt_ids: Sequence[int]) -> int:
        """Room for the answer.

        Raises:
            ContextLengthError: prompt and requested answer do not fit.
        """
        param = "messages" if request.messages is not None else "prompt"
        room = self._max_length - len(prompt_ids)
        wanted = request.sampling.max_tokens
        if room < 1 or (wanted or 0) > room:
            asked = f" and {wanted} for the answer" if wanted and room >= 1 else ""
            raise ContextLengthError(
                f"This model's context is {self._max_length} tokens; the request needs {len(prompt_ids)} for the "
                f"prompt{asked}. Shorten the {param} or ask for fewer tokens.",
                param=param,
            )
        return wanted or room

    def _deliver(self, outbox: Outbox) -> None:
        """Engine thread: all events of a step, one wake-up for each event loop."""
        pairs = [(request.channel, event) for request, event in outbox if isinstance(request.channel, Channel)]
        unreachable = {id(channel) for channel in deliver(pairs)}
        if unreachable:
            for request, _ in outbox:
                if id(request.channel) in unreachable:
                    self._loop.abort(request)
