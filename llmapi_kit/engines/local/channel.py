"""From the engine thread to an event loop: one wake-up a step for all requests of that loop.

Knows nothing of requests; carries the events of a batching loop. `Channel.receive` runs on the consumer's loop,
`deliver` on the thread that makes the events.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence

from llmapi_kit.types import Delta, Event


class Channel:
    """The events of one request on their way to its consumer. Make it on the consumer's event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._events: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, event: Event) -> None:
        """Add an event; on the consumer's loop only."""
        self._events.append(event)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self) -> Event:
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
            return self._merge(event)
        return event

    def _merge(self, first: Delta) -> Delta:
        """A piece, and those of the same answer that follow it directly."""
        pieces = [first]
        while self._events and isinstance(next_event := self._events[0], Delta) and next_event.index == first.index:
            pieces.append(next_event)
            self._events.popleft()
        if len(pieces) == 1:
            return first
        logprobs = tuple(logprob for piece in pieces for logprob in piece.logprobs)
        text = "".join(piece.text for piece in pieces)
        return Delta(text, sum(piece.num_tokens for piece in pieces), logprobs, first.index)


def deliver(batch: Iterable[tuple[Channel, Event]]) -> list[Channel]:
    """Hand events to their channels' loops, with one call a loop.

    Returns:
        Channels whose loop is closed: nobody will ever read them.
    """
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Channel, Event]]] = {}
    for channel, event in batch:
        by_loop.setdefault(channel.loop, []).append((channel, event))
    unreachable: list[Channel] = []
    for loop, pairs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_put_all, pairs)
        except RuntimeError:
            unreachable.extend(channel for channel, _ in pairs)
    return unreachable


def _put_all(pairs: Sequence[tuple[Channel, Event]]) -> None:
    for channel, event in pairs:
        channel.put(event)
