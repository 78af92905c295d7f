"""The chunks of one response, as they come in. Runs on the event loop of whoever reads."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any

import httpx

from llmapi_kit.cancellation import cancel_and_wait
from llmapi_kit.engines.upstream.deadline import Deadline
from llmapi_kit.engines.upstream.sse_parser import BOM, BodyParser, SSEParser

MAX_BODY_BYTES = 64 * 1024 * 1024
DONE = b"[DONE]"
NOTHING = (b"", b"null")  # what some send to keep a connection alive
LAST_PART_S = 0.2  # for the end of a response whose stream has ended, so that its connection can be used again


class SilentError(Exception):
    """Nothing came within the limit; it may still."""


class ResponseReader:
    """JSON objects from a stream of server-sent events, one after the other, or the only one of a JSON body.

    Args:
        response: still to be read; closed by `aclose`.
        deadline: waits for it.
    """

    def __init__(self, response: httpx.Response, deadline: Deadline) -> None:
        self._response = response
        self._deadline = deadline
        self._parts = response.aiter_bytes().__aiter__()
        self._reader: SSEParser | BodyParser | None = None
        self._ready: deque[bytes] = deque()
        self._task: asyncio.Task[bytes | None] | None = None
        self._has_ended = False
        self._waited_s = 0.0

    @property
    def is_whole(self) -> bool:
        """Whether the upstream answered in one piece, though it was asked for a stream."""
        return isinstance(self._reader, BodyParser)

    async def next(self, limit_s: float) -> Any:
        """The next object; None when there are no more.

        Args:
            limit_s: how long to wait for it in all, however often this is called.

        Raises:
            SilentError: it did not come in time.
            ValueError: what came is not JSON, or far too large.
            Exception: the connection broke, or the deadline was stopped.
        """
        while True:
            while not self._ready:
                if self._has_ended:
                    return None
                self._take(await self._part(limit_s))
            data = self._ready.popleft().strip()
            if data in NOTHING:
                continue
            self._waited_s = 0.0
            if data == DONE:
                self._has_ended = True
                self._ready.clear()
                return None
            return json.loads(data)

    async def aclose(self) -> None:
        """Close the response; the connection is kept if nothing is left on it."""
        try:
            if self._has_ended and not self._ready:
                self._waited_s = 0.0
                while await self._part(LAST_PART_S) is not None:
                    pass
        except Exception:  # the answer is complete; only whether the connection can be kept was left to find out
            self._has_ended = False
        finally:
            if self._task is not None:
                await cancel_and_wait(self._task)
            await self._response.aclose()

    def _take(self, part: bytes | None) -> None:
        """Read a part; None is the end."""
        if part is None:
            self._has_ended = True
            self._ready.extend(self._reader.flush() if self._reader is not None else ())
            return
        if self._reader is None:  # what came tells more than its media type: proxies say the wrong one
            if not (begun := part.removeprefix(BOM).lstrip()):
                return
            self._reader = BodyParser() if begun.startswith(b"{") else SSEParser()
        self._ready.extend(self._reader.feed(part))

    async def _part(self, limit_s: float) -> bytes | None:
        if self._task is None:
            self._task = asyncio.ensure_future(self._read())
        loop = asyncio.get_running_loop()
        began = loop.time()
        is_there = await self._deadline.wait(self._task, limit_s - self._waited_s)
        self._waited_s += loop.time() - began
        if not is_there:
            raise SilentError
        task, self._task = self._task, None
        return task.result()

    async def _read(self) -> bytes | None:
        try:
            return await self._parts.__anext__()
        except StopAsyncIteration:
            return None


async def read_json(response: httpx.Response, deadline: Deadline, limit_s: float) -> Any:
    """The whole body of a response as JSON; closes it.

    Raises:
        SilentError: it did not come in time.
        ValueError: it is not JSON, or far too large.
        Exception: the connection broke, or the deadline was stopped.
    """
    task = asyncio.ensure_future(_read_all(response))
    try:
        if not await deadline.wait(task, limit_s):
            raise SilentError
        return json.loads(task.result())
    finally:
        await cancel_and_wait(task)
        await response.aclose()


async def _read_all(response: httpx.Response) -> bytes:
    parts, size = [], 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise ValueError(f"the body has more than {MAX_BODY_BYTES:,} bytes")
        parts.append(part)
    return b"".join(parts)
