"""A replica of a model in the cluster: an engine, and what Ray Serve asks of it.

Runs in a process of the cluster. Events leave it in batches, as each message costs both ends about as much as a token
of a small model does.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from llmapi_kit.cluster.owner import serve_owner
from llmapi_kit.engines.base import Engine, GenerationRequest
from llmapi_kit.engines.channel import Ended
from llmapi_kit.engines.process.wire import portable
from llmapi_kit.errors import EngineUnavailableError
from llmapi_kit.types import EngineStats, Event

MESSAGE_COST_S = 0.0005  # of a stream's message, about; so long for each stream, a stream's next one is held back
MAX_HELD_S = 0.05

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """How a replica is, told at the end of a stream.

    Attributes:
        replica: names it.
        stats: of its engine.
    """

    replica: str
    stats: EngineStats


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a call. An error travels as a value: as an exception Ray would make another one of it.

    Attributes:
        value: what it returned.
        error: what it raised, in place of that.
    """

    value: Any = None
    error: Exception | None = None


Item = Event | Ended | Report


class EngineReplica:
    """See the module; `llmapi_kit.cluster.engine.ClusterEngine` is its other end.

    Args:
        make_engine: makes the engine.
        is_owned: whether its application ends with whoever deployed it.
        ends_serve: see `llmapi_kit.cluster.owner.serve_owner`.
    """

    def __init__(self, make_engine: Callable[[], Engine], *, is_owned: bool = False, ends_serve: bool = False) -> None:
        if is_owned:
            serve_owner(_context().app_name, _replica_name(), ends_serve=ends_serve)
        self._engine = make_engine()
        logger.info("%s is loaded in process %d", self._engine.info.id, os.getpid())
        self._num_streams = 0

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[list[Item], None]:
        """The events of a request, in batches; the last ones are `Ended` and a `Report`."""
        batch = _Batch()
        task = asyncio.create_task(self._answer(request, batch))
        self._num_streams += 1
        try:
            while not batch.is_over:
                yield await batch.take(min(MAX_HELD_S, MESSAGE_COST_S * (self._num_streams - 1)))
        finally:
            self._num_streams -= 1
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def call(self, method: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Outcome:
        """What a method of the engine makes of a call."""
        try:
            return Outcome(await getattr(self._engine, method)(*arguments, **keywords))
        except Exception as exc:
            return Outcome(error=portable(exc))

    async def describe(self) -> Outcome:
        """The engine's info."""
        return Outcome(self._engine.info)

    def check_health(self) -> None:
        """Called by Serve now and then, which replaces a replica where this raises.

        Raises:
            EngineUnavailableError: the engine answers no more.
        """
        readiness = self._engine.readiness()
        if not readiness.ready:
            raise EngineUnavailableError(readiness.reason)

    def __del__(self) -> None:
        if hasattr(self, "_engine"):
            self._engine.close()

    async def _answer(self, request: GenerationRequest, batch: _Batch) -> None:
        error: Exception | None = None
        try:
            async with aclosing(self._engine.generate(request)) as events:
                async for event in events:
                    batch.add(event)
        except Exception as exc:
            error = portable(exc)
        batch.end(Ended(error), Report(_replica_name(), self._engine.stats()))


class _Batch:
    """Items of a stream that were not sent yet."""

    def __init__(self) -> None:
        self.is_over = False
        self._items: list[Item] = []
        self._is_last_in = False
        self._changed = asyncio.Event()
        self._next_at = 0.0

    def add(self, item: Item) -> None:
        """Send it soon."""
        self._items.append(item)
        self._changed.set()

    def end(self, *items: Item) -> None:
        """Send the last ones, and what is held back, at once."""
        self._is_last_in = True
        self._items += items
        self._changed.set()

    async def take(self, hold_s: float) -> list[Item]:
        """What there is, once there is something; the next ones come after `hold_s` at the earliest, or at the end."""
        loop = asyncio.get_running_loop()
        await self._changed.wait()
        while not self._is_last_in and (left_s := self._next_at - loop.time()) > 0:
            self._changed.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left_s)
        items, self._items = self._items, []
        self._changed.clear()
        self.is_over = self._is_last_in
        self._next_at = loop.time() + hold_s
        return items


def _replica_name() -> str:
    return str(_context().replica_id.unique_id)


def _context() -> Any:
    from ray import serve

    return serve.get_replica_context()
