"""An engine without a model: answers at once with a fixed text. For tests, demonstrations and benchmarks.

Needs neither torch nor a download. Runs on the caller's event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncGenerator, Sequence

from llmapi_kit.engines.base import (
    LEAST_EFFORTS,
    EmbeddingRequest,
    GenerationRequest,
    ScoreRequest,
    Truncation,
    switches_thinking_off,
)
from llmapi_kit.engines.image_parts import image_parts, refusal
from llmapi_kit.engines.mock_picture import draw
from llmapi_kit.errors import ContextLengthError, EngineUnavailableError, InvalidRequestError, UnsupportedFieldError
from llmapi_kit.sampling.stop_strings import StopMatcher
from llmapi_kit.types import (
    Accepted,
    Delta,
    Embedded,
    EngineInfo,
    EngineStats,
    Event,
    Failed,
    Finished,
    FinishReason,
    GeneratedImage,
    ImageRequest,
    Readiness,
    Score,
)

DEFAULT_SIZE, MAX_SIDE = "64x64", 2048


class MockEngine:
    """See `llmapi_kit.engines.base.Engine`. A token is a word with the space before it.

    Args:
        reply: the answer; None repeats what was asked.
        delay_s: wait before each token.
        num_tokens: answer with this many tokens, repeating the reply; None for the reply once.
        context_length: in words.
        name: what clients pass as ``model``.
    """

    def __init__(
        self,
        reply: str | None = None,
        *,
        delay_s: float = 0.0,
        num_tokens: int | None = None,
        context_length: int = 8192,
        name: str = "mock",
    ) -> None:
        self.info = EngineInfo(
            id=name,
            context_length=context_length,
            created=int(time.time()),
            description="A stand-in that repeats the question. It has no model.",
            capabilities=("chat", "completions", "embeddings", "dimensions", "rerank", "images"),
        )
        self._reply = reply
        self._delay_s = delay_s
        self._num_tokens = num_tokens
        self._is_closed = False
        self._words: dict[str, int] = {}
        self._stats = EngineStats()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """See `Engine.generate`. There is nothing to sample from: what needs a model is refused."""
        if self._is_closed:
            raise EngineUnavailableError("The mock engine is closed.")
        _refuse_what_needs_a_model(request)
        prompt, param = _prompt_words(request)
        if len(prompt) >= self.info.context_length:
            raise ContextLengthError(
                f"This model's context is {self.info.context_length} tokens; the {param} has {len(prompt)}.",
                param=param,
            )
        tokens, reason, stop_string = self._answer(prompt, request)
        indices = range(request.n)
        self._stats.num_running += 1
        num_made, is_over = 0, False
        try:
            yield Accepted(len(prompt))
            for token in tokens:
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                elif num_made % 256 == 0:
                    await asyncio.sleep(0)  # let other requests have their turn
                if self._is_closed:
                    is_over = True
                    yield Failed(EngineUnavailableError("The mock engine was closed."))
                    return
                num_made += 1
                self._stats.num_completion_tokens += request.n
                for index in indices:
                    yield Delta(token, index=index)
            is_over = True
            self._stats.num_finished += 1
            for index in indices:
                yield Finished(reason, len(prompt), num_made, index=index, stop_string=stop_string)
        finally:
            self._stats.num_running -= 1
            self._stats.num_cancelled += not is_over

    async def embed(self, inputs: Sequence[str | Sequence[int]], *, cache_salt: str = "") -> list[Embedded]:
        """See `Engine.embed`: a vector that only the text decides."""
        if self._is_closed:
            raise EngineUnavailableError("The mock engine is closed.")
        return [Embedded(_vector(each), len(_words(each)), index) for index, each in enumerate(inputs)]

    async def embed_request(self, request: EmbeddingRequest) -> list[Embedded]:
        """See `llmapi_kit.engines.base.Embedder`."""
        if request.prompt_name:
            raise UnsupportedFieldError("The mock engine has no prompts; leave prompt_name out.", param="prompt_name")
        inputs = [_cut(each, request.truncation, self.info.context_length) for each in request.inputs]
        return await self.embed(inputs)

    async def score(self, request: ScoreRequest) -> list[Score]:
        """See `llmapi_kit.engines.base.Embedder`: the share of words that both texts have."""
        if self._is_closed:
            raise EngineUnavailableError("The mock engine is closed.")
        scores = []
        for query, document in request.pairs:
            a = _words(query)
            shortened = " ".join(_words(document)[: request.max_document_tokens])
            b = _words(_cut(shortened, request.truncation, self.info.context_length))
            union = {*a, *b}
            scores.append(Score(len({*a} & {*b}) / len(union) if union else 0.0, len(a) + len(b)))
        return scores

    async def generate_images(self, request: ImageRequest) -> list[GeneratedImage]:
        """See `llmapi_kit.engines.base.ImageEngine`: pictures that only the prompt decides."""
        if self._is_closed:
            raise EngineUnavailableError("The mock engine is closed.")
        for param in ("quality", "style"):
            if getattr(request, param):
                raise UnsupportedFieldError(f"The mock engine has no model, so it can't honour {param}.", param=param)
        width, height = (int(side) for side in (request.size or DEFAULT_SIZE).split("x"))
        if max(width, height) > MAX_SIDE:
            raise InvalidRequestError(
                f"size is {request.size}; the mock engine draws up to {MAX_SIDE}x{MAX_SIDE}.", param="size"
            )
        pictures = [await asyncio.to_thread(draw, request.prompt, i, width, height) for i in range(request.n)]
        return [GeneratedImage(data=picture) for picture in pictures]

    async def tokenize(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """See `Engine.tokenize`: a token a word, by its number."""
        return [self._words.setdefault(word, len(self._words)) for word in text.split()]

    async def tokenize_chat(self, request: GenerationRequest) -> list[int]:
        """See `Engine.tokenize_chat`."""
        return await self.tokenize(" ".join(_prompt_words(request)[0]))

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """See `Engine.detokenize`: words that were tokenized before."""
        words = list(self._words)
        wrong = [token_id for token_id in token_ids if not 0 <= token_id < len(words)]
        if wrong:
            raise InvalidRequestError(f"tokens has token id {wrong[0]}, which stands for no word.", param="tokens")
        return " ".join(words[token_id] for token_id in token_ids)

    def readiness(self) -> Readiness:
        """See `Engine.readiness`."""
        return Readiness(False, "The mock engine is closed.") if self._is_closed else Readiness(True)

    def stats(self) -> EngineStats:
        """See `Engine.stats`."""
        return EngineStats(
            num_running=self._stats.num_running,
            num_finished=self._stats.num_finished,
            num_cancelled=self._stats.num_cancelled,
            num_completion_tokens=self._stats.num_completion_tokens,
        )

    def close(self) -> None:
        """See `Engine.close`."""
        self._is_closed = True

    def _answer(self, prompt: list[str], request: GenerationRequest) -> tuple[list[str], FinishReason, str]:
        """The words, why they end, and the stop string that ended them."""
        sampling = request.sampling
        words = (self._reply if self._reply is not None else " ".join(prompt)).split(" ")
        room = self.info.context_length - len(prompt)
        if sampling.min_tokens > room:
            raise ContextLengthError(
                f"This model's context is {self.info.context_length} tokens; the prompt has {len(prompt)}, and "
                f"min_tokens is {sampling.min_tokens}.",
                param="min_tokens",
            )
        num_words = max(len(words) if self._num_tokens is None else self._num_tokens, sampling.min_tokens)
        words = (words * (num_words // len(words) + 1))[:num_words]
        wanted = sampling.max_tokens
        limit = min(len(words) if wanted is None else wanted, room)
        reason: FinishReason = "length" if len(words) > limit else "stop"
        tokens = [word if i == 0 else " " + word for i, word in enumerate(words[:limit])]
        stops = StopMatcher(sampling.stop, is_included=sampling.include_stop_str_in_output)
        text, is_stopped = stops.feed("".join(tokens[sampling.min_tokens :]))
        if not is_stopped:
            return tokens, reason, ""
        left = len("".join(tokens[: sampling.min_tokens]) + text)
        cut: list[str] = []
        for token in tokens:
            if left <= 0:
                break
            cut.append(token[:left])
            left -= len(token)
        return cut, "stop", stops.met


def _refuse_what_needs_a_model(request: GenerationRequest) -> None:
    sampling = request.sampling
    needs = {
        "suffix": request.suffix is not None,
        "echo": request.echo,
        "num_beams": request.num_beams > 1,
        "best_of": request.best_of > request.n,
        "logprobs": sampling.logprobs is not None,
        "tool_choice": request.tools is not None and (request.tools.is_required or bool(request.tools.forced)),
        "continue_final_message": request.is_continuing,
        "chat_template_kwargs": any(
            not switches_thinking_off(*template_option) for template_option in request.template_options.items()
        ),
        "reasoning_effort": request.reasoning_effort not in (None, *LEAST_EFFORTS),
    }
    params = [param for param, is_needed in needs.items() if is_needed]
    if sampling.constraint is not None:
        params.append(sampling.constraint.param)
    if params:
        raise UnsupportedFieldError(f"The mock engine has no model, so it can't honour {params[0]}.", param=params[0])


def _prompt_words(request: GenerationRequest) -> tuple[list[str], str]:
    """The words of the last message or of the prompt, and the name of the field they came in."""
    if request.messages is not None:
        if images := image_parts(request.messages):
            raise refusal(images[0].param)
        content = request.messages[-1]["content"]
        return str(content or "").split(), "messages"
    return _words(request.prompt or ()), "prompt"


def _words(text: str | Sequence[int]) -> list[str]:
    return text.split() if isinstance(text, str) else [str(token_id) for token_id in text]


def _cut(text: str | Sequence[int], truncation: Truncation | None, most: int) -> str | Sequence[int]:
    """What is left of an input."""
    if truncation is None:
        return text
    words, num = _words(text), truncation.num_tokens or most
    return " ".join(words[-num:] if truncation.side == "start" else words[:num])


def _vector(text: str | Sequence[int], size: int = 8) -> tuple[float, ...]:
    """A vector of length 1, drawn from a hash of the text."""
    digest = hashlib.blake2b(" ".join(_words(text)).encode(), digest_size=size).digest()
    values = [byte - 127.5 for byte in digest]
    norm = math.hypot(*values)
    return tuple(value / norm for value in values)
