"""A model that answers elsewhere, behind the same protocol as one in this process.

`Accepted` comes when the upstream's stream has begun well: with its first piece, or a second after its headers. What
fails before that is refused like any request, with a status of its own, and may be asked again with another key; what
fails later ends the answer. How long the prompt is, an upstream says at the end only, so `Accepted` has 0.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any, TypeVar

from llmapi_kit.checkpoints.providers import Provider
from llmapi_kit.config import Settings
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.engines.upstream.answer_parser import read_images, read_prompt, read_token_ids, read_vectors
from llmapi_kit.engines.upstream.circuit_breaker import CircuitBreaker
from llmapi_kit.engines.upstream.client import Connection, UpstreamClient
from llmapi_kit.engines.upstream.deadline import Deadline
from llmapi_kit.engines.upstream.faults import FaultTranslator, UpstreamFault, advice
from llmapi_kit.engines.upstream.key_pool import Key, KeyPool
from llmapi_kit.engines.upstream.request_body import body_of, image_body
from llmapi_kit.engines.upstream.response import begin_answer
from llmapi_kit.engines.upstream.retry_policy import RetryPolicy
from llmapi_kit.engines.upstream.stream_parser import StreamParser
from llmapi_kit.engines.upstream.welm import as_continuation
from llmapi_kit.errors import EngineUnavailableError, RequestError, UnsupportedFieldError
from llmapi_kit.types import (
    Accepted,
    Delta,
    Embedded,
    EngineInfo,
    EngineStats,
    Event,
    Failed,
    Finished,
    GeneratedImage,
    ImageRequest,
    Readiness,
)

T = TypeVar("T")


class UpstreamEngine:
    """See `llmapi_kit.engines.base.Engine`.

    Args:
        info: what it tells of itself.
        provider: how to speak with the upstream.
        model: its name for the model.
        base_url: where it answers.
        keys: its API keys.
        settings: limits and retries.
    """

    def __init__(
        self,
        info: EngineInfo,
        provider: Provider,
        *,
        model: str,
        base_url: str,
        keys: Sequence[Key],
        settings: Settings | None = None,
    ) -> None:
        settings = settings or Settings()
        self.info = info
        self._provider = provider
        self._model = model
        self._keys = KeyPool(keys, provider=provider.name, advice=advice(provider))
        self._circuit = CircuitBreaker(provider.name)
        self._connection = Connection(provider, base_url, settings.upstream_connect_s)
        self._client = UpstreamClient(self._connection, FaultTranslator(provider, model, self._keys.scrub), settings)
        self._retrying = RetryPolicy(
            provider.name,
            self._keys,
            self._circuit,
            max_retries=settings.upstream_retries,
            deadline_s=settings.upstream_retry_s,
        )
        self._lock = threading.Lock()
        self._is_closed = False
        self._under_way: set[_UnderWay] = set()
        self._stats = EngineStats()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """See `Engine.generate`."""
        if self._provider.only_continues:
            request = as_continuation(request)
        path, body = body_of(request, self._provider, self._model)
        error: RequestError | None = None
        with self._counted() as this:
            answer = await self._retrying.run(
                lambda key: begin_answer(self._client, key, path, body, this.deadline, self._reader(request)),
                affinity=request.affinity,
                deadline=this.deadline,
            )
            try:
                yield Accepted(0)
                async with contextlib.aclosing(answer.events()) as events:
                    async for event in events:
                        self._count(event, this)
                        yield event
            except UpstreamFault as fault:
                error = fault.error
                if fault.blame == "upstream":
                    self._circuit.failed()
            except RequestError as exc:  # the engine was closed
                error = exc
            else:
                self._circuit.completed()
            finally:
                await answer.aclose()
            this.has_failed = error is not None
        if error is not None:
            yield Failed(error)

    async def embed(self, inputs: Sequence[str | Sequence[int]], *, cache_salt: str = "") -> list[Embedded]:
        """See `Engine.embed`."""
        if "embeddings" not in self.info.capabilities:
            raise UnsupportedFieldError(f"The model {self.info.id!r} makes no embeddings.", param="model")
        has_ids = any(not isinstance(each, str) for each in inputs)
        if has_ids and not self._provider.takes_token_ids:
            raise UnsupportedFieldError(f"{self._provider.name} takes no token ids; send texts.", param="input")
        asked = [each if isinstance(each, str) else list(each) for each in inputs]
        body = {"model": self._model, "input": asked, "encoding_format": "float"}
        return await self._ask("/embeddings", body, lambda answer: read_vectors(answer, inputs))

    async def generate_images(self, request: ImageRequest) -> list[GeneratedImage]:
        """See `llmapi_kit.engines.base.ImageEngine`."""
        if "images" not in self.info.capabilities:
            raise UnsupportedFieldError(f"The model {self.info.id!r} makes no images.", param="model")
        body = image_body(request, self._model)
        return await self._ask("/images/generations", body, read_images, affinity=request.affinity, is_slow=True)

    async def tokenize(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """See `Engine.tokenize`."""
        body = {"model": self._model, "prompt": text, "add_special_tokens": add_special_tokens}
        return await self._ask(self._token_path("tokenize"), body, read_token_ids)

    async def tokenize_chat(self, request: GenerationRequest) -> list[int]:
        """See `Engine.tokenize_chat`."""
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [dict(message) for message in request.messages or ()],
            "add_generation_prompt": request.has_generation_prompt,
        }
        if request.tools is not None:
            body["tools"] = list(request.tools.tools)
        if request.template_options:
            body["chat_template_kwargs"] = dict(request.template_options)
        return await self._ask(self._token_path("tokenize"), body, read_token_ids)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """See `Engine.detokenize`."""
        body = {"model": self._model, "tokens": list(token_ids)}
        return await self._ask(self._token_path("detokenize"), body, read_prompt)

    def readiness(self) -> Readiness:
        """See `Engine.readiness`."""
        if self._is_closed:
            return Readiness(False, f"The connection to {self._provider.name} is closed.")
        problem = self._circuit.problem() or self._keys.problem()
        return Readiness(not problem, problem)

    def stats(self) -> EngineStats:
        """See `Engine.stats`."""
        with self._lock:
            values = {name: getattr(self._stats, name) for name in EngineStats.__dataclass_fields__}
            values["ttft"], values["inter_token"] = self._stats.ttft.copy(), self._stats.inter_token.copy()
            return EngineStats(**values)

    def close(self) -> None:
        """See `Engine.close`. Does not block."""
        with self._lock:
            self._is_closed = True
            under_way = list(self._under_way)
        for this in under_way:
            this.deadline.stop(EngineUnavailableError(f"The connection to {self._provider.name} was closed."))
        self._connection.close()

    async def _ask(
        self, path: str, body: Any, read: Callable[[Any], T], *, affinity: str = "", is_slow: bool = False
    ) -> T:
        """What is read from a whole answer."""
        settings = self._client.settings
        limit_s = settings.total_timeout_s if is_slow else settings.first_token_timeout_s
        with self._counted() as this:

            async def send(key: Key) -> T:
                answer = await self._client.ask(key, path, body, this.deadline, limit_s)
                try:
                    return read(answer)
                except ValueError as exc:
                    fault = self._client.fault_of(exc, 0)
                raise fault

            result = await self._retrying.run(send, affinity=affinity, deadline=this.deadline)
            this.is_over = True
            self._circuit.completed()
            return result

    def _reader(self, request: GenerationRequest) -> StreamParser:
        sampling = request.sampling
        cut = sampling.stop if self._provider.only_continues else ()
        return StreamParser(request.n, wants_logprobs=sampling.logprobs is not None, stop=cut)

    def _token_path(self, what: str) -> str:
        if not self._provider.has_tokenize:
            raise UnsupportedFieldError(f"{self._provider.name} does not tell how it splits texts.", param="model")
        return f"{self._connection.root}/{what}"

    @contextlib.contextmanager
    def _counted(self) -> Iterator[_UnderWay]:
        """A request under way, counted however it ends.

        Raises:
            EngineUnavailableError: the engine is closed.
        """
        with self._lock:
            if self._is_closed:
                raise EngineUnavailableError(f"The connection to {self._provider.name} is closed.")
            this = _UnderWay()
            self._under_way.add(this)
            self._stats.num_running += 1
        try:
            yield this
        except RequestError:
            this.has_failed = True
            raise
        finally:
            with self._lock:
                self._under_way.discard(this)
                self._stats.num_running -= 1
                self._stats.num_failed += this.has_failed
                self._stats.num_finished += this.is_over and not this.has_failed
                self._stats.num_cancelled += not (this.is_over or this.has_failed)

    def _count(self, event: Event, this: _UnderWay) -> None:
        stats = self._stats
        now = time.monotonic()
        with self._lock:
            if isinstance(event, Delta):
                stats.num_completion_tokens += event.num_tokens
                (stats.inter_token if this.has_text else stats.ttft).observe(now - this.since)
                this.since, this.has_text = now, True
            elif isinstance(event, Finished):
                this.is_over = True
                if event.index == 0:
                    stats.num_prompt_tokens += event.num_prompt_tokens
                    stats.num_cached_tokens += event.num_cached_tokens


class _UnderWay:
    """A request that is being answered. Made on the event loop that waits for it."""

    def __init__(self) -> None:
        self.deadline = Deadline()
        self.since = time.monotonic()
        self.has_text = False
        self.is_over = False
        self.has_failed = False
