"""Several engines that stand in for each other: when one can't answer, the next one does.

The next one is asked only before anything of an answer was passed on, and only for what is not the client's fault: a
prompt that is too long for the first engine is refused, not sent on. Which one answered is in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from llmapi_kit.engines.adapters import Adapters, adapters_of
from llmapi_kit.engines.base import Engine, GenerationRequest, ImageEngine
from llmapi_kit.engines.engine_group import EngineGroup
from llmapi_kit.errors import ConfigError, EngineUnavailableError, RequestError, RequestTimeoutError
from llmapi_kit.types import (
    EngineInfo,
    Event,
    Failed,
    GeneratedImage,
    ImageRequest,
    Readiness,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")
ACCEPT_TIMEOUT_S = 35.0  # a provider that hangs has told so by then: `Settings.upstream_answer_s`


class FallbackEngine(EngineGroup):
    """See `llmapi_kit.engines.base.Engine`.

    It is known by the first engine's name, and can do what all of them can, within the shortest of their contexts.
    Vectors of different models don't compare: for embeddings let only the same model stand in.

    Args:
        engines: at least two, the preferred one first.
        accept_timeout_s: how long an engine has to accept a request before the next one is asked; the last one has no
            limit here.
        kept: those of them that `close` leaves open, as they are somebody else's.

    Raises:
        ConfigError: there are fewer than two.
    """

    def __init__(
        self, engines: Sequence[Engine], *, accept_timeout_s: float = ACCEPT_TIMEOUT_S, kept: Sequence[Engine] = ()
    ) -> None:
        if len(engines) < 2:
            raise ConfigError("A fallback needs at least two engines: one to ask first, and another one.")
        self._engines = tuple(engines)
        self._accept_timeout_s = accept_timeout_s
        self._kept = {id(engine) for engine in kept}
        self._is_closed = False
        self.info = _info([engine.info for engine in engines])

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """See `Engine.generate`."""
        error: RequestError | None = None
        for engine, limit_s in self._in_turn():
            events = engine.generate(request)
            try:
                error, first = await self._first(events, engine, limit_s)
                if first is None:
                    continue
                self._tell(engine)
                yield first
                async for event in events:
                    yield event
                return
            finally:
                await events.aclose()
        raise error or self._nobody()

    async def generate_images(self, request: ImageRequest) -> list[GeneratedImage]:
        """See `llmapi_kit.engines.base.ImageEngine`."""

        async def make(engine: Engine) -> list[GeneratedImage]:
            if not isinstance(engine, ImageEngine):
                raise EngineUnavailableError(f"The model {engine.info.id!r} makes no images.")
            return await engine.generate_images(request)

        return await self._ask(make)

    async def tokenize(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """See `Engine.tokenize`: as the first engine does."""
        return await self._engines[0].tokenize(text, add_special_tokens=add_special_tokens)

    async def tokenize_chat(self, request: GenerationRequest) -> list[int]:
        """See `Engine.tokenize_chat`: as the first engine does."""
        return await self._engines[0].tokenize_chat(request)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """See `Engine.detokenize`: as the first engine does."""
        return await self._engines[0].detokenize(token_ids)

    def readiness(self) -> Readiness:
        """See `Engine.readiness`: ready when one of them is."""
        if self._is_closed:
            return Readiness(False, f"The model {self.info.id!r} is closed.")
        each = [engine.readiness() for engine in self._engines]
        reasons = [f"{e.info.id}: {r.reason}" for e, r in zip(self._engines, each, strict=True) if not r.ready]
        return Readiness(any(readiness.ready for readiness in each), "; ".join(reasons))

    @property
    def adapters(self) -> Adapters | None:
        """The first engine's. They answer without a fallback: another model does not have them."""
        return adapters_of(self._engines[0])

    def close(self) -> None:
        """See `Engine.close`."""
        self._is_closed = True
        for engine in self._engines:
            if id(engine) not in self._kept:
                engine.close()

    def _in_turn(self) -> Iterator[tuple[Engine, float | None]]:
        """Each engine and how long it may take to accept; those that say they can't answer come last.

        Raises:
            EngineUnavailableError: this one is closed.
        """
        if self._is_closed:
            raise EngineUnavailableError(f"The model {self.info.id!r} is closed.")
        engines = sorted(self._engines, key=lambda engine: not engine.readiness().ready)
        for engine in engines:
            yield engine, None if engine is engines[-1] else self._accept_timeout_s

    async def _first(
        self, events: AsyncGenerator[Event, None], engine: Engine, limit_s: float | None
    ) -> tuple[RequestError | None, Event | None]:
        """The first event, or why there is none.

        Raises:
            RequestError: there is none, and it is the client's fault.
        """
        try:
            event = await asyncio.wait_for(events.__anext__(), limit_s)
        except RequestError as exc:
            return self._judge(exc, engine), None
        except asyncio.TimeoutError:
            return self._late(engine), None
        return (self._judge(event.error, engine), None) if isinstance(event, Failed) else (None, event)

    async def _ask(self, ask: Callable[[Engine], Awaitable[T]]) -> T:
        """What the first engine gives that can."""
        error: RequestError | None = None
        for engine, limit_s in self._in_turn():
            try:
                result = await asyncio.wait_for(_awaited(ask(engine)), limit_s)
            except RequestError as exc:
                error = self._judge(exc, engine)
            except asyncio.TimeoutError:
                error = self._late(engine)
            else:
                self._tell(engine)
                return result
        raise error or self._nobody()

    def _judge(self, error: RequestError, engine: Engine) -> RequestError:
        """The error, if another engine may do better.

        Raises:
            RequestError: it is the client's fault.
        """
        if error.status < 500 and error.status not in (404, 429):
            raise error
        logger.warning("%s could not answer for %s: %s", engine.info.id, self.info.id, error.message)
        return error

    def _late(self, engine: Engine) -> RequestError:
        logger.warning("%s did not accept a request within %g s", engine.info.id, self._accept_timeout_s)
        return RequestTimeoutError(f"The model {engine.info.id!r} did not accept the request in time.")

    def _tell(self, engine: Engine) -> None:
        if engine is not self._engines[0]:
            logger.info("%s answers for %s", engine.info.id, self.info.id)

    def _nobody(self) -> EngineUnavailableError:
        return EngineUnavailableError(f"Nobody can answer for the model {self.info.id!r}.")


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable


def _info(infos: Sequence[EngineInfo]) -> EngineInfo:
    first = infos[0]
    contexts = [info.context_length for info in infos if info.context_length]
    names = ", then ".join(f"{info.id} ({info.owned_by})" for info in infos)
    common = [word for word in first.capabilities if all(word in info.capabilities for info in infos)]
    return replace(
        first,
        context_length=min(contexts, default=0),
        description=f"The first of these that can answer: {names}.",
        capabilities=tuple(common),
    )
