"""For a process that reaches the cluster through Ray Client (``ray://``), where Serve's handles can't stream.

An actor in the cluster holds the handle, and gives each request's batches out when they are asked for. What is here
looks like a handle to `llmapi_kit.cluster.engine.ClusterEngine`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from typing import Any

from llmapi_kit.cluster.replica import Item
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.ids import random_hex

MAX_REQUESTS = 10_000


def bridged(app: str) -> BridgedHandle:
    """What stands for an application's handle; its actor ends with this process's connection."""
    import ray

    actor = ray.remote(num_cpus=0, max_concurrency=MAX_REQUESTS)(Bridge).remote(app)
    return BridgedHandle(actor)


class Bridge:
    """The actor.

    Args:
        app: whose model is asked.
    """

    def __init__(self, app: str) -> None:
        from ray import serve

        handle = serve.get_app_handle(app)
        self._streams = handle.options(method_name="generate", stream=True)
        self._handle = handle
        self._under_way: dict[str, Any] = {}

    async def generate(self, call_id: str, request: GenerationRequest) -> None:
        """Begin to answer a request."""
        self._under_way[call_id] = self._streams.remote(request)

    async def next(self, call_id: str) -> list[Item] | None:
        """The next batch of a request; None after the last one."""
        items: list[Item] | None = await anext(self._under_way[call_id], None)
        if items is None:
            del self._under_way[call_id]
        return items

    async def call(self, call_id: str, method: str, arguments: tuple[Any, ...]) -> Any:
        """What a method of a replica returns."""
        response = self._under_way[call_id] = getattr(self._handle, method).remote(*arguments)
        try:
            return await response
        finally:
            self._under_way.pop(call_id, None)

    async def cancel(self, call_id: str) -> None:
        """Nobody waits for a request any more."""
        response = self._under_way.pop(call_id, None)
        if response is not None:
            response.cancel()


class BridgedHandle:
    """What `ClusterEngine` uses of a handle.

    Args:
        actor: the `Bridge`.
        method: of a replica.
        is_stream: whether it answers with a stream.
    """

    def __init__(self, actor: Any, method: str = "", *, is_stream: bool = False) -> None:
        self._actor = actor
        self._method = method
        self._is_stream = is_stream

    def options(self, *, method_name: str, stream: bool = False) -> BridgedHandle:
        """A handle of a method."""
        return BridgedHandle(self._actor, method_name, is_stream=stream)

    def remote(self, *arguments: Any) -> _BridgedResponse:
        """Ask."""
        call_id = random_hex(16)
        if self._is_stream:
            return _BridgedResponse(self._actor, call_id, self._actor.generate.remote(call_id, *arguments))
        return _BridgedResponse(self._actor, call_id, self._actor.call.remote(call_id, self._method, arguments))


class _BridgedResponse:
    """What was asked: its value awaited, or its batches one by one."""

    def __init__(self, actor: Any, call_id: str, first: Any) -> None:
        self._actor = actor
        self._call_id = call_id
        self._first = first

    def __await__(self) -> Generator[Any, None, Any]:
        return _value(self._first).__await__()

    def __aiter__(self) -> AsyncIterator[list[Item]]:
        return self

    async def __anext__(self) -> list[Item]:
        if self._first is not None:
            first, self._first = self._first, None
            await _value(first)
        items: list[Item] | None = await _value(self._actor.next.remote(self._call_id))
        if items is None:
            raise StopAsyncIteration
        return items

    def cancel(self) -> None:
        """Ask for no more of it."""
        self._actor.cancel.remote(self._call_id)


async def _value(ref: Any) -> Any:
    return await asyncio.wrap_future(ref.future())
