"""Server-sent events, and answers that stop when their client leaves.

Both kinds of answer watch the connection while they work: `EventStream` sends frames as they come, `while_connected`
waits for a whole answer. Knows nothing of what is in a frame.

Source: WHATWG HTML, section "Server-sent events"; ASGI 3.0, "http.disconnect".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llmapi_kit.cancellation import cancel_and_wait
from llmapi_kit.config import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")
OnEnd = Callable[[], Awaitable[None]]
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # tells nginx and its kind to pass chunks on as they come
)


class LastFrame(bytes):
    """A frame that nothing follows, so that it is sent together with the end of the response. May be empty."""


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
        await cancel_and_wait(watcher)
        await cancel_and_wait(task)
        if on_end is not None:
            await on_end()


class EventStream(Response):
    """A response that sends frames until they end, the client leaves, or it stops reading.

    Args:
        frames: whole SSE frames, one or more in each part; a `LastFrame` ends the response.
        settings: keep-alive interval and how long a reader may stall.
        on_end: called in every case, also when nothing could be sent and `frames` was never begun.
        keep_alive: the frame that keeps a quiet stream open.
    """

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        settings: Settings,
        *,
        on_end: OnEnd,
        keep_alive: bytes = KEEP_ALIVE,
    ) -> None:
        super().__init__()
        self._frames = frames
        self._settings = settings
        self._on_end = on_end
        self._keep_alive = keep_alive
        self._sending_since: float | None = None
        self._sent_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._comment: asyncio.Future[None] | None = None

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """Those of every stream."""
        self.raw_headers = list(HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        sender = asyncio.ensure_future(self._send_all(send))
        watcher = asyncio.ensure_future(_disconnect(receive))
        self._look_later(send, sender)
        try:
            await asyncio.wait({sender, watcher}, return_when=asyncio.FIRST_COMPLETED)
            if sender.done() and not sender.cancelled():
                sender.result()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for task in (watcher, self._comment, sender):
                if task is not None:
                    await cancel_and_wait(task)
            await self._frames.aclose()
            await self._on_end()

    async def _send_all(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        self._sending_since = self._sent_at = loop.time()
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._sending_since = None
        async for frame in self._frames:
            self._sending_since = loop.time()
            is_last = isinstance(frame, LastFrame)
            await send({"type": "http.response.body", "body": frame, "more_body": not is_last})
            self._sent_at, self._sending_since = self._sending_since, None
            if is_last:
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _look_later(self, send: Send, sender: asyncio.Future[None]) -> None:
        interval_s = min(self._settings.keep_alive_s, self._settings.stalled_reader_s) / 4
        self._timer = asyncio.get_running_loop().call_later(interval_s, self._look, send, sender)

    def _look(self, send: Send, sender: asyncio.Future[None]) -> None:
        """Send a comment when nothing else is sent; give up a client that does not read."""
        settings = self._settings
        now = asyncio.get_running_loop().time()
        if self._sending_since is not None:
            if now - self._sending_since > settings.stalled_reader_s:
                logger.warning("A client read nothing for %.0f s and was dropped", settings.stalled_reader_s)
                sender.cancel()
                return
        elif now - self._sent_at >= settings.keep_alive_s:
            self._sending_since = now
            self._comment = asyncio.ensure_future(self._send_comment(send))
        self._look_later(send, sender)

    async def _send_comment(self, send: Send) -> None:
        sending_since = self._sending_since
        await send({"type": "http.response.body", "body": self._keep_alive, "more_body": True})
        if self._sending_since == sending_since:
            self._sent_at, self._sending_since = asyncio.get_running_loop().time(), None


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
