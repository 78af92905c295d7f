"""For a process that reaches the cluster through Ray Client (``ray://``), where Serve's handles can't stream.

An actor in the cluster holds the handle, and gives each request's batches out when they are asked for. What is here
looks like a handle to `llmapi_kit.cluster.engine.ClusterEngine`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

from llmapi_kit.cluster.owner import Owner
from llmapi_kit.cluster.replica import Item
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.errors import EngineUnavailableError
from llmapi_kit.ids import random_hex


class Bridge(Owner):
    """The actor; it is the application's owner, too.

    Args:
        app: whose model is asked.
    """

    def __init__(self, app: str) -> None:
        super().__init__(app)
        self._under_way: dict[str, Any] = {}

    @cached_property
    def _handle(self) -> Any:
        """Of the application, which is deployed later than its owner is there."""
        from ray import serve

        return serve.get_app_handle(self.app)

    @cached_property
    def _streams(self) -> Any:
        return self._handle.options(method_name="generate", stream=True)

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
        with _lost_as_unavailable():
            if self._is_stream:
                first = self._actor.generate.remote(call_id, *arguments)
            else:
                first = self._actor.call.remote(call_id, self._method, arguments)
        return _BridgedResponse(self._actor, call_id, first)


class _BridgedResponse:
    """What was asked: its value awaited, or its batches one by one."""

    def __init__(self, actor: Any, call_id: str, first: Any) -> None:
        self._actor = actor
        self._call_id = call_id
        self._first = first

    def __await__(self) -> Generator[Any, None, Any]:
        return _value(self._first).__await__()

    def result(self) -> Any:
        """The value; blocks."""
        import ray

        return ray.get(self._first)

    def __aiter__(self) -> AsyncIterator[list[Item]]:
        return self

    async def __anext__(self) -> list[Item]:
        if self._first is not None:
            first, self._first = self._first, None
            await _value(first)
        with _lost_as_unavailable():
            ref = self._actor.next.remote(self._call_id)
        items: list[Item] | None = await _value(ref)
        if items is None:
            raise StopAsyncIteration
        return items

    def cancel(self) -> None:
        """Ask for no more of it."""
        with suppress(Exception):  # the cluster may be gone
            self._actor.cancel.remote(self._call_id)


async def _value(ref: Any) -> Any:
    with _lost_as_unavailable():
        # Ray Client can't bear that somebody cancels its future
        return await asyncio.shield(asyncio.wrap_future(ref.future()))


@contextmanager
def _lost_as_unavailable() -> Iterator[None]:
    """What Ray Client raises without a connection, of whatever class, as our error."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError:
        raise
    except Exception as exc:
        raise EngineUnavailableError(f"The connection to the cluster was lost: {exc}") from exc
