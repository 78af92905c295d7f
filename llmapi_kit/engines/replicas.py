"""Several engines of one model that share its requests: each goes where its prompt's beginning is cached.

A conversation's next turn is answered by the replica that answered the last one, unless that has much more to do than
another. A request whose replica dies before anything of the answer was passed on is asked again elsewhere.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from llmapi_kit.engines.base import Engine, GenerationRequest, ImageEngine
from llmapi_kit.engines.engine_group import EngineGroup
from llmapi_kit.engines.prefix_affinity import PrefixAffinity, block_keys
from llmapi_kit.errors import ConfigError, EngineUnavailableError, QueueFullError, RequestError, UnsupportedFieldError
from llmapi_kit.types import (
    Accepted,
    Delta,
    Event,
    Failed,
    GeneratedImage,
    ImageRequest,
    Readiness,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")


class ReplicatedEngine(EngineGroup):
    """See `llmapi_kit.engines.base.Engine`.

    Args:
        engines: the replicas, alike; owned from now on.

    Attributes:
        info: that of the first, with how many there are.

    Raises:
        ConfigError: there is none.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        if not engines:
            raise ConfigError("A replicated engine needs at least one engine.")
        self._engines = tuple(engines)
        self._num_slots = engines[0].stats().num_slots
        self._affinity = PrefixAffinity()
        self._num_requests = [0] * len(engines)
        self._num_given = [0] * len(engines)
        self._lock = threading.Lock()
        info = engines[0].info
        self.info = replace(info, description=f"{info.description} {len(engines)} replicas.".strip())

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """See `Engine.generate`."""
        keys = block_keys(request)
        tried: set[int] = set()
        is_accepted = False
        while True:
            with self._chosen(keys, tried) as index:
                tried.add(index)
                events = self._engines[index].generate(request)
                has_begun = False
                try:
                    async for event in events:
                        if isinstance(event, Failed) and not has_begun:
                            raise event.error  # nothing of an answer is out
                        if isinstance(event, Accepted):
                            if not is_accepted:
                                yield event
                            is_accepted = True
                            continue
                        has_begun = has_begun or isinstance(event, Delta)
                        yield event
                    return
                except RequestError as exc:
                    may_retry = not has_begun and self._may_do_better(exc, index)
                    if not may_retry or len(tried) == len(self._engines):
                        if not is_accepted:
                            raise
                        yield Failed(exc)
                        return
                finally:
                    await events.aclose()

    async def generate_images(self, request: ImageRequest) -> list[GeneratedImage]:
        """See `ImageEngine.generate_images`."""

        async def make(engine: Engine) -> list[GeneratedImage]:
            if not isinstance(engine, ImageEngine):
                raise UnsupportedFieldError(f"The model {self.info.id!r} makes no images.", param="model")
            return await engine.generate_images(request)

        return await self._ask(make)

    async def tokenize(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """See `Engine.tokenize`."""
        return await self._ask(lambda engine: engine.tokenize(text, add_special_tokens=add_special_tokens))

    async def tokenize_chat(self, request: GenerationRequest) -> list[int]:
        """See `Engine.tokenize_chat`."""
        return await self._ask(lambda engine: engine.tokenize_chat(request))

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """See `Engine.detokenize`."""
        return await self._ask(lambda engine: engine.detokenize(token_ids))

    def readiness(self) -> Readiness:
        """See `Engine.readiness`: ready when one of them is; the reason names those that are not."""
        each = [engine.readiness() for engine in self._engines]
        reasons = [f"replica {number}: {it.reason}" for number, it in enumerate(each, 1) if not it.ready]
        return Readiness(any(it.ready for it in each), "; ".join(reasons))

    def close(self) -> None:
        """See `Engine.close`."""
        for engine in self._engines:
            engine.close()

    @contextmanager
    def _chosen(self, keys: Sequence[bytes], without: set[int]) -> Iterator[int]:
        """The replica that a request is best given to; it counts as busy inside the block."""
        with self._lock:
            index = self._choose(keys, without)
            self._affinity.record(keys, index)
            self._num_requests[index] += 1
            self._num_given[index] += bool(keys)  # or what only asks for tokens would move the next conversation on
        try:
            yield index
        finally:
            with self._lock:
                self._num_requests[index] -= 1

    def _choose(self, keys: Sequence[bytes], without: set[int]) -> int:
        """The one with the longest beginning among those that have not much more to do; the least busy otherwise."""
        left = [index for index in range(len(self._engines)) if index not in without]
        least = min(self._num_requests[index] for index in left)
        lengths = self._affinity.lengths(keys)

        def rank(index: int) -> tuple[int, int, int]:
            length, num = lengths.get(index, 0), self._num_requests[index]
            is_near = num <= least + self._affinity.much_more(keys[:length], self._num_slots)
            return length if is_near else 0, -num, -self._num_given[index]

        return max(left, key=rank)

    def _may_do_better(self, error: RequestError, index: int) -> bool:
        """Whether another replica may answer what this one could not."""
        if isinstance(error, EngineUnavailableError):
            with self._lock:
                self._affinity.forget(index)
            logger.warning("Replica %d of %s can't answer: %s", index + 1, self.info.id, error.message)
        return isinstance(error, EngineUnavailableError | QueueFullError)

    async def _ask(self, ask: Callable[[Engine], Awaitable[T]]) -> T:
        """What the least busy replica gives that can."""
        tried: set[int] = set()
        while True:
            with self._chosen((), tried) as index:
                tried.add(index)
                try:
                    return await ask(self._engines[index])
                except RequestError as exc:
                    if not self._may_do_better(exc, index) or len(tried) == len(self._engines):
                        raise
