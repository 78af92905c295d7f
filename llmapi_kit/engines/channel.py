"""From a thread that makes events to an event loop: one wake-up a step for all requests of that loop.

Knows nothing of requests; carries the events of a batching loop, or of a process that has one. `Channel.receive` runs
on the consumer's loop, `deliver` on the thread that makes the events.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from llmapi_kit.types import Delta, Event


@dataclass(frozen=True, slots=True)
class Ended:
    """No more events come.

    Attributes:
        error: what the events ended with in place of an event; None where the last one was an event.
    """

    error: Exception | None = None


ItemT = TypeVar("ItemT", bound=Event | Ended)


class Channel(Generic[ItemT]):
    """The events of one request on their way to its consumer. Make it on the consumer's event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._events: deque[ItemT] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, event: ItemT) -> None:
        """Add an event; on the consumer's loop only."""
        self._events.append(event)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self) -> ItemT:
        """The next event, waiting for it. One consumer at a time.

        Pieces of the same answer that have piled up come as one, so a consumer that can't keep up with the model
        has less to do for each token.
        """
        while not self._events:
            self._waiter = self.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        event = self._events.popleft()
        if self._events and isinstance(event, Delta):
            return cast(ItemT, self._merge(event))
        return event

    def _merge(self, first: Delta) -> Delta:
        """A piece, and those of the same answer that follow it directly."""
        pieces = [first]
        while self._events and isinstance(next_event := self._events[0], Delta) and next_event.index == first.index:
            pieces.append(next_event)
            self._events.popleft()
        if len(pieces) == 1:
            return first
        return Delta(
            "".join(piece.text for piece in pieces),
            sum(piece.num_tokens for piece in pieces),
            tuple(logprob for piece in pieces for logprob in piece.logprobs),
            first.index,
            "".join(piece.reasoning for piece in pieces),
            tuple(call for piece in pieces for call in piece.tool_calls),
        )


def deliver(batch: Iterable[tuple[Channel[ItemT], ItemT]]) -> list[Channel[ItemT]]:
    """Hand events to their channels' loops, with one call a loop.

    Returns:
        Channels whose loop is closed: nobody will ever read them.
    """
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Channel[ItemT], ItemT]]] = {}
    for channel, event in batch:
        by_loop.setdefault(channel.loop, []).append((channel, event))
    unreachable: list[Channel[ItemT]] = []
    for loop, pairs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_put_all, pairs)
        except RuntimeError:
            unreachable.extend(channel for channel, _ in pairs)
    return unreachable


def _put_all(pairs: Sequence[tuple[Channel[ItemT], ItemT]]) -> None:
    for channel, event in pairs:
        channel.put(event)
