"""Server-sent events, and answers that stop when their client leaves.

Both kinds of answer watch the connection while they work: `EventStream` sends frames as they come, `while_connected`
waits for a whole answer. Knows nothing of what is in a frame.

Source: WHATWG HTML, section "Server-sent events"; ASGI 3.0, "http.disconnect".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llmapi_kit.config import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")
OnEnd = Callable[[], Awaitable[None]]
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T], *, on_end: OnEnd | None = None) -> T:
    """Do the work unless the client leaves first.

    Args:
        receive: of the connection; its request has been read.
        work: is cancelled when the client leaves.
        on_end: called in every case; a task that is cancelled before it began cleans up nothing itself.

    Raises:
        ClientDisconnect: the client left.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        await _end(watcher)
        await _end(task)
        if on_end is not None:
            await on_end()


class EventStream(Response):
    """A response that sends frames until they end, the client leaves, or it stops reading.

    Args:
        frames: whole SSE frames.
        settings: keep-alive interval and how long a reader may stall.
        on_end: called in every case, also when nothing could be sent and `frames` was never begun.
    """

    def __init__(self, frames: AsyncGenerator[bytes, None], settings: Settings, *, on_end: OnEnd) -> None:
        super().__init__(media_type="text/event-stream")
        # X-Accel-Buffering tells nginx and its kind to pass chunks on as they come
        self.headers.update({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._frames = frames
        self._settings = settings
        self._on_end = on_end
        self._sending_since: float | None = None
        self._sent_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        loop = asyncio.get_running_loop()
        sender = asyncio.ensure_future(self._send_all(send))
        watcher = asyncio.ensure_future(_disconnect(receive))
        timekeeper = asyncio.ensure_future(self._keep_time(send, sender, loop))
        try:
            await asyncio.wait({sender, watcher}, return_when=asyncio.FIRST_COMPLETED)
            if sender.done() and not sender.cancelled():
                sender.result()
        finally:
            for task in (watcher, timekeeper, sender):
                await _end(task)
            await self._frames.aclose()
            await self._on_end()

    async def _send_all(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        self._sending_since = self._sent_at = loop.time()
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for frame in self._frames:
            self._sending_since = loop.time()
            await send({"type": "http.response.body", "body": frame, "more_body": True})
            self._sent_at, self._sending_since = self._sending_since, None
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _keep_time(self, send: Send, sender: asyncio.Future[None], loop: asyncio.AbstractEventLoop) -> None:
        """Send comments while nothing else is sent; give up a client that does not read."""
        settings = self._settings
        while True:
            await asyncio.sleep(min(settings.keep_alive_s, settings.stalled_reader_s) / 4)
            now = loop.time()
            if self._sending_since is not None:
                if now - self._sending_since > settings.stalled_reader_s:
                    logger.warning("A client read nothing for %.0f s and was dropped", settings.stalled_reader_s)
                    sender.cancel()
                    return
            elif now - self._sent_at >= settings.keep_alive_s:
                self._sending_since = now
                await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})
                self._sent_at, self._sending_since = now, None


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it has cleaned up; what it raises has been seen or does not matter any more."""
    if not task.done():
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task
