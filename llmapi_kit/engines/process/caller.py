"""In the engine's process: what one of the owner's event loops asks for, and what goes back to it.

`llmapi_kit.engines.process.connection` is the other end. Knows nothing of how the engine was made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import aclosing, suppress
from typing import Any

from llmapi_kit.engines.base import Engine
from llmapi_kit.engines.process.wire import (
    HEADER_BYTES,
    Call,
    Cancel,
    Done,
    FromEngine,
    Generate,
    Happened,
    Raised,
    Returned,
    ToEngine,
    length_of,
    packed,
    portable,
    unpacked,
)

LAST_WORDS_S = 1.0


class Outbox:
    """What goes to the owner: all of one round of the event loop in one message, such as the events of a step.

    Args:
        writer: the socket's.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        writer.transport.set_write_buffer_limits(0)  # to wait for the end of it all in `sent`, and nowhere else
        self._loop = asyncio.get_running_loop()
        self._messages: list[FromEngine] = []

    def send(self, message: FromEngine) -> None:
        """Send soon; on the event loop."""
        if not self._messages:
            self._loop.call_soon(self._flush)
        self._messages.append(message)

    def send_from_thread(self, message: FromEngine) -> None:
        """The same, from any thread."""
        with suppress(RuntimeError):  # the loop has ended, and so has the owner's interest
            self._loop.call_soon_threadsafe(self.send, message)

    async def sent(self) -> None:
        """Wait until all has gone, or nobody has taken it for a while."""
        await asyncio.sleep(0)  # it is written at the end of a round
        with suppress(asyncio.TimeoutError, ConnectionError):
            await asyncio.wait_for(self._writer.drain(), LAST_WORDS_S)

    def close(self) -> None:
        """Send nothing more."""
        self._writer.close()

    def _flush(self) -> None:
        messages, self._messages = self._messages, []
        if not self._writer.is_closing():
            self._writer.write(packed(messages))


class Caller:
    """One of the owner's event loops: runs what it asks for until it hangs up, which ends what still runs.

    Args:
        engine: that is asked.
        reader: of its connection.
        outbox: what goes back to it.
    """

    def __init__(self, engine: Engine, reader: asyncio.StreamReader, outbox: Outbox) -> None:
        self._engine = engine
        self._reader = reader
        self._outbox = outbox
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Do what it asks for, until it hangs up."""
        try:
            while True:
                self._take(await received(self._reader))
        except (asyncio.IncompleteReadError, ConnectionError):
            for task in self._tasks.values():
                task.cancel()
        finally:
            self._outbox.close()

    async def finish(self) -> None:
        """Wait for what runs, and until it is sent; the engine is closed, so that ends."""
        if self._tasks:
            await asyncio.wait(self._tasks.values())
        await self._outbox.sent()

    def _take(self, message: ToEngine) -> None:
        if isinstance(message, Generate):
            self._start(message.call_id, self._generate(message))
        elif isinstance(message, Call):
            self._start(message.call_id, self._call(message))
        elif isinstance(message, Cancel) and message.call_id in self._tasks:
            self._tasks[message.call_id].cancel()

    def _start(self, call_id: int, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks[call_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(call_id))

    async def _generate(self, message: Generate) -> None:
        try:
            async with aclosing(self._engine.generate(message.request)) as events:
                async for event in events:
                    self._outbox.send(Happened(message.call_id, event))
        except Exception as exc:
            self._outbox.send(Raised(message.call_id, portable(exc)))
        else:
            self._outbox.send(Done(message.call_id, self._engine.stats()))

    async def _call(self, message: Call) -> None:
        try:
            value = await getattr(self._engine, message.method)(*message.arguments, **message.keywords)
        except Exception as exc:
            self._outbox.send(Raised(message.call_id, portable(exc)))
        else:
            self._outbox.send(Returned(message.call_id, value))


async def received(reader: asyncio.StreamReader) -> ToEngine:
    """The next message.

    Raises:
        asyncio.IncompleteReadError: whoever sends is gone.
    """
    header = await reader.readexactly(HEADER_BYTES)
    message: ToEngine = unpacked(await reader.readexactly(length_of(header)))
    return message
