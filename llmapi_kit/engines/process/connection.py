"""What one event loop says to the engine's process and hears from it: a connection of its own, and no thread between.

A thread that read for all loops, and woke them, would have to wait for the GIL in each step as the loop does; beside a
cell that computes, that is half a millisecond each time.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.engines.channel import Channel, Ended
from llmapi_kit.engines.process.child import Child
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
    unpacked,
)
from llmapi_kit.errors import RequestError
from llmapi_kit.types import EngineStats, Event, Failed, Finished

LAST_WORDS_S = 1.0  # until what a process said before its end has arrived
Item = Event | Ended


@dataclass(slots=True)
class _Answering:
    """A request under way.

    Attributes:
        channel: where its events go.
        num_to_come: of its answers, those that are not whole yet.
        has_failed: whether it ended in an error, as an event.
        is_told: whether the process has said that nothing more comes.
    """

    channel: Channel[Item]
    num_to_come: int
    has_failed: bool = False
    is_told: bool = False

    @property
    def is_over(self) -> bool:
        """Whether its client gets all of it, whatever becomes of the process."""
        return self.is_told or self.has_failed or not self.num_to_come

    def put(self, item: Item) -> None:
        """Pass on what came."""
        self.num_to_come -= isinstance(item, Finished)
        self.has_failed = self.has_failed or isinstance(item, Failed)
        self.is_told = self.is_told or isinstance(item, Ended)
        self.channel.put(item)


class Connection(asyncio.Protocol):
    """Make it on the loop, and use it there. Closes itself where the loop's asynchronous generators are shut down.

    Args:
        child: the process.
        on_done: called with the process and its engine's counters when a request has ended.
        on_lost: called with the number of requests that were answered in full, and of those that failed, without the
            process having said so.
        on_end: called with the connection when it is of no more use.

    Attributes:
        loop: whose it is.
    """

    def __init__(
        self,
        child: Child,
        *,
        on_done: Callable[[Child, EngineStats], None],
        on_lost: Callable[[int, int], None],
        on_end: Callable[[Connection], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._child = child
        self._on_done, self._on_lost, self._on_end = on_done, on_lost, on_end
        self._call_ids = itertools.count(1)
        self._under_way: dict[int, _Answering] = {}
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._received = bytearray()
        self._unsent: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._error: RequestError | None = None
        self._why_lost = "it closed a connection"
        self._is_lost = self._is_closed = False
        self._socket = child.connect()
        self._lifetime = self._live()
        with suppress(StopIteration):  # goes to its `yield`, and needs no loop for that
            self._lifetime.__anext__().__await__().send(None)
        self._opening = self.loop.create_task(self._open())

    @property
    def num_requests(self) -> int:
        """Requests that wait for something of the process; from any thread."""
        return sum(not each.is_over for each in list(self._under_way.values()))

    def begin(self, request: GenerationRequest) -> tuple[int, Channel[Item]]:
        """Have a request answered; its number, for `finish`, and where its events come."""
        call_id, channel = next(self._call_ids), Channel[Item]()
        self._send(Generate(call_id, request))
        self._under_way[call_id] = _Answering(channel, request.n)
        return call_id, channel

    def finish(self, call_id: int, *, is_over: bool) -> None:
        """Hear no more of a request.

        Args:
            call_id: its number.
            is_over: whether its end has come; else the process is told to stop it.
        """
        del self._under_way[call_id]
        if not is_over:
            self._send(Cancel(call_id))

    async def call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """What a method of the engine returns."""
        call_id, answer = next(self._call_ids), self.loop.create_future()
        self._answers[call_id] = answer
        try:
            self._send(Call(call_id, method, arguments, keywords))
            return await answer
        except asyncio.CancelledError:
            self._send(Cancel(call_id))
            raise
        finally:
            del self._answers[call_id]

    def end(self, error: RequestError) -> None:
        """The process is gone: end what still waits with an error, after all that the process had said.

        Args:
            error: why.
        """
        self._error = error
        if self._is_lost:
            self._fail()
        else:  # a process that can't be ended keeps it open
            self.loop.call_later(LAST_WORDS_S, self._abort)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast(asyncio.Transport, transport)
        for content in self._unsent:
            self._transport.write(content)
        self._unsent.clear()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self._received += data
        try:
            while len(self._received) >= HEADER_BYTES:
                end = HEADER_BYTES + length_of(self._received[:HEADER_BYTES])
                if len(self._received) < end:
                    break
                messages: list[FromEngine] = unpacked(self._received[HEADER_BYTES:end])
                del self._received[:end]
                for message in messages:
                    self._take(message)
        except Exception as exc:  # whatever an engine's own objects make of pickle
            self._why_lost = f"what it said can't be read, {type(exc).__name__}: {exc}"
            self._abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by either side. Why the process did so is known when `end` is called."""
        self._is_lost = True
        if self._error is not None:
            self._fail()
        elif not self._is_closed:
            self.loop.call_later(LAST_WORDS_S, self._end_process)

    def _take(self, message: FromEngine) -> None:
        if isinstance(message, Done):
            self._on_done(self._child, message.stats)
        if not isinstance(message, Happened | Done | Returned | Raised):
            raise TypeError(f"{type(message).__name__} is not for one event loop")
        if (answering := self._under_way.get(message.call_id)) is not None:
            answering.put(message.event if isinstance(message, Happened) else _ended(message))
        answer = self._answers.get(message.call_id)
        if answer is not None and not answer.done():
            if isinstance(message, Raised):
                answer.set_exception(message.error)
            elif isinstance(message, Returned):
                answer.set_result(message.value)

    def _send(self, message: ToEngine) -> None:
        if self._transport is None:
            self._unsent.append(packed(message))
        elif not self._transport.is_closing():
            self._transport.write(packed(message))

    def _fail(self) -> None:
        """End what still waits; the process says no more."""
        if self._error is None or self._is_closed:
            return
        untold = [each for each in self._under_way.values() if not each.is_told]
        num_whole = sum(not each.num_to_come for each in untold)
        self._on_lost(num_whole, len(untold) - num_whole)
        self._on_end(self)
        for each in untold:
            if not each.is_over:
                each.put(Failed(self._error))
            each.put(Ended())
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self._error)
        self._close()

    async def _open(self) -> None:
        try:
            await self.loop.create_unix_connection(lambda: self, sock=self._socket)
        except OSError as exc:  # the process is gone already
            self.connection_lost(exc)

    async def _live(self) -> AsyncGenerator[None, None]:
        """Its end is the one notice of its own end that a loop gives."""
        try:
            yield
        finally:
            if not self._is_closed:
                self._on_end(self)
                self._close()

    def _end_process(self) -> None:
        """It goes on without this connection, on which somebody waits."""
        if self._error is None and not self._is_closed:
            self._child.kill(self._why_lost)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _close(self) -> None:
        self._is_closed = True
        if self._transport is not None:
            self._transport.close()
        else:
            self._socket.close()


def _ended(message: Done | Returned | Raised) -> Ended:
    return Ended(message.error if isinstance(message, Raised) else None)
