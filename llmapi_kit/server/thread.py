"""uvicorn in a thread of the kernel: start, wait until it answers, say why not, stop.

Knows nothing of models or keys; runs any ASGI application. The thread makes an event loop of its own and never
calls `asyncio.run`, so it works whatever nest_asyncio has patched and whichever loop the kernel runs. uvicorn leaves
signal handlers alone off the main thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from llmapi_kit.errors import ServerStartError
from llmapi_kit.server.http_protocol import HttpProtocol
from llmapi_kit.server.port import LISTEN_BACKLOG, bind

logger = logging.getLogger(__name__)

# How long `stop` lets connections end by themselves. A client that stopped reading never would.
CLOSING_S = 1.0
# Then uvicorn cancels what is still there; an SSE stream would hold it up forever.
GRACEFUL_SHUTDOWN_S = 2
# When the garbage collector looks for cycles, by generation. A process with torch holds half a million objects, and to
# look through all of them holds every stream up for a quarter of a second; with Python's own thresholds that came
# once in a thousand requests.
COLLECT_AFTER = (10_000, 20, 50)


class ServerThread:
    """One uvicorn server. Binds when it is made; `start` and `stop` it once each, from any thread.

    Args:
        app: the application.
        host: address to bind.
        port: port to bind; 0 picks a free one.
        listener: a socket to answer at in place of binding one; closed by `stop`.
        on_death: called on the dying thread when it ends without having been stopped.

    Raises:
        PortInUseError: the port is taken; the message says by whom, where that can be seen.
        ConfigError: the address can't be bound.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        port: int,
        listener: socket.socket | None = None,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        config = uvicorn.Config(
            app,
            http=HttpProtocol,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # anybody could write them
            timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
            backlog=LISTEN_BACKLOG,
        )
        self._server = _Server(config)
        self._on_death = on_death
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cause: BaseException | None = None
        self._socket = bind(host, port) if listener is None else listener
        self.host = host
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name=f"llmapi_kit server :{self.port}", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def cause(self) -> BaseException | None:
        """What ended the thread, if it was not `stop`."""
        return self._cause

    def start(self, timeout_s: float) -> None:
        """Start and wait until requests are answered. On failure, or an interrupt, everything is taken back.

        Raises:
            ServerStartError: it did not come up; the cause is chained.
        """
        try:
            self._thread.start()
            has_ended = self._server.ready.wait(timeout_s)
        except BaseException:
            self.stop()
            raise
        if self._cause is not None or not has_ended or not self._server.started:
            cause = self._cause
            self.stop()
            what = f"{type(cause).__name__}: {cause}" if cause else f"no answer within {timeout_s:g} s"
            raise ServerStartError(f"The server on port {self.port} did not start: {what}.") from cause

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Stop and wait for the end of the thread. Safe to call twice, and before `start`.

        Connections may end by themselves for a second; then they are cut.

        Returns:
            Whether the thread ended in time.
        """
        self._server.should_exit = True
        try:
            if self._thread is threading.current_thread():
                return False
            if self._server.started:
                self.call_soon(self._server.woken.set)
                self.call_soon(self._cut_connections_later)
            else:
                self.call_soon(self._give_up)
            if self._thread.ident is not None:
                self._thread.join(timeout_s)
        finally:
            self._socket.close()
        return not self._thread.is_alive()

    def share_listener(self) -> socket.socket:
        """The socket it answers at, for a server that is to take its place."""
        return self._socket.dup()

    def stop_listening(self) -> None:
        """Leave new connections to whoever shares the socket, from when it returns; those that are open stay."""
        is_closed = threading.Event()

        def close() -> None:
            self._close_listeners()
            is_closed.set()

        self.call_soon(close)
        if self.is_alive:
            is_closed.wait(CLOSING_S)

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> None:
        """Run something on the server's event loop; does nothing once it has ended."""
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(callback, *args)
            except RuntimeError:
                logger.debug("The server's event loop is closed")

    def _run(self) -> None:
        try:
            _collect_rarely()
            loop = self._loop = _new_event_loop()
            try:
                loop.run_until_complete(self._server.serve(sockets=[self._socket]))
            finally:
                self._close(loop)
        except BaseException as exc:  # uvicorn leaves by SystemExit when it can't start
            if not self._server.should_exit:
                self._cause = exc
            logger.debug("The server's thread ended", exc_info=exc)
        finally:
            has_died = self._server.started and not self._server.should_exit
            self._server.ready.set()
            if has_died:
                self._on_death()

    def _cut_connections_later(self) -> None:
        asyncio.get_running_loop().call_later(CLOSING_S, self._cut_connections)

    def _cut_connections(self) -> None:
        """Drop connections with all that was not sent; their requests see a client that left."""
        for connection in list(self._server.server_state.connections):
            transport: asyncio.Transport | None = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()

    def _close_listeners(self) -> None:
        for server in getattr(self._server, "servers", ()):
            server.close()

    def _give_up(self) -> None:
        """End a start that hangs."""
        for task in asyncio.all_tasks():
            task.cancel()

    def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close what uvicorn left open, cancel what is left on the loop, let it clean up, and close it."""
        try:
            self._close_listeners()
            self._cut_connections()
            deadline = time.monotonic() + 2
            while (tasks := asyncio.all_tasks(loop)) and time.monotonic() < deadline:
                for task in tasks:
                    task.cancel()
                loop.run_until_complete(asyncio.wait(tasks, timeout=0.5))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()


class _Server(uvicorn.Server):
    """Tells when it is ready and is told when to stop, where uvicorn would look ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self.woken = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # a tick numbered 0 renews the Date header
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.woken.wait(), timeout=1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what is idle at once; uvicorn, which takes a tenth of a second at least, waits for the rest."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await asyncio.sleep(0)  # connections that were closed are counted out
        if self.server_state.connections or self.server_state.tasks:
            await super().shutdown(sockets)


def _collect_rarely() -> None:
    """Raise the garbage collector's thresholds, for the whole process. Higher ones stay; a collector off stays off."""
    thresholds = gc.get_threshold()
    if thresholds[0]:
        gc.set_threshold(*map(max, thresholds, COLLECT_AFTER))


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop of uvloop where it is installed: it is faster, and nothing can patch it."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
