"""The limits of keys where several servers have one database: what all of them let through counts.

Asked after a server's own counts, which are never more than these and hold alone while the database does not answer.
On the server's event loop, but for `renew`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from llmapi_kit.errors import RateLimitError, StoreError
from llmapi_kit.ids import random_hex
from llmapi_kit.store.database import settled
from llmapi_kit.store.key_counts import Answer, KeyCounts, Use, Used
from llmapi_kit.store.minute_window import Window
from llmapi_kit.store.stored_key import KeyLimits

logger = logging.getLogger(__name__)

ANSWER_S = 2.0  # until the database is taken to be away
AWAY_S = 5.0  # that it is not asked for then
PAUSES_S = (0.02, 0.1)  # for the end of a request that was answered, maybe by another server, to be written


@dataclass(frozen=True, slots=True)
class SharedUse:
    """A request that all servers count.

    Attributes:
        use: what it took of its key.
        minute: that it was counted in.
    """

    use: Use
    minute: int


class SharedCounts:
    """See the module.

    Args:
        store: counts in the database.
    """

    def __init__(self, store: KeyCounts) -> None:
        self._store = store
        self._running: set[str] = set()
        self._known: dict[str, tuple[float, Used]] = {}
        self._asked_from = 0.0

    async def take(
        self, key_id: str, limits: KeyLimits, tokens: int, check: Callable[[Used], RateLimitError | None]
    ) -> SharedUse | None:
        """Count a request; None where the database does not answer.

        Args:
            key_id: of the key.
            limits: of the key.
            tokens: that the request is taken to use.
            check: why a request is refused, by what was used before; called on another thread.

        Raises:
            RateLimitError: that of `check`.
        """
        if time.monotonic() < self._asked_from:
            return None
        most = limits.concurrency
        use = Use(key_id, None if most is None else random_hex(32), tokens)
        answer = await self._answer(use, check)
        for pause_s in PAUSES_S:
            if answer is None or answer.refusal is None or most is None or answer.used.num_running < most:
                break
            await asyncio.sleep(pause_s)
            answer = await self._answer(use, check)
        if answer is None:
            return None
        self._known[key_id] = time.monotonic(), answer.used
        if answer.refusal is not None:
            raise answer.refusal
        if use.lease is not None:
            self._running.add(use.lease)
        return SharedUse(use, answer.used.minute)

    def settle(self, shared: SharedUse, tokens: int) -> None:
        """A request is over, and used so many more tokens than it was taken to, or fewer. Waits for nothing."""
        use = shared.use
        if use.lease is not None:
            self._running.discard(use.lease)
        if use.key_id in self._known:
            at, used = self._known[use.key_id]
            window = used.tokens._replace(now=max(0, used.tokens.now + tokens))
            self._known[use.key_id] = at, Used(used.requests, window, used.num_running, used.minute)
        if use.lease is not None or tokens:
            self._settle(use, shared.minute, tokens)

    def windows(self, key_id: str) -> tuple[Window, Window] | None:
        """Requests and tokens of a key's last minute, as they were known last; None where they never were."""
        if key_id not in self._known:
            return None
        at, used = self._known[key_id]
        since_s = time.monotonic() - at
        return used.requests.after(since_s), used.tokens.after(since_s)

    def renew(self) -> None:
        """Say which requests still run here. From any thread; waits for the database.

        Raises:
            StoreError: it failed.
        """
        if running := list(self._running):
            self._store.renew_sync(running)

    async def _answer(self, use: Use, check: Callable[[Used], RateLimitError | None]) -> Answer[RateLimitError] | None:
        """The database's answer; None where there is none soon. What it counts later is taken back then."""
        future: Future[Answer[RateLimitError]] | None = None
        try:
            future = self._store.take(use, check)
            return await asyncio.wait_for(settled(future), ANSWER_S)
        except (StoreError, asyncio.TimeoutError) as exc:
            self._asked_from = time.monotonic() + AWAY_S
            why = str(exc) or f"It did not answer within {ANSWER_S:g} s."
            logger.warning("This server counts the limits of keys by itself until the database answers: %s", why)
            if future is not None:
                future.add_done_callback(partial(self._take_back, use))
            return None
        except asyncio.CancelledError:
            if future is not None:
                future.add_done_callback(partial(self._take_back, use))
            raise

    def _take_back(self, use: Use, future: Future[Any]) -> None:
        """Nobody waits for the answer any more, so nobody would settle what it counted."""
        if future.exception() is None and future.result().refusal is None:
            self._settle(use, future.result().used.minute, -use.tokens)

    def _settle(self, use: Use, minute: int, tokens: int) -> None:
        try:
            self._store.settle(use, minute, tokens).add_done_callback(_note_failure)
        except StoreError as exc:
            _note(exc)


def _note_failure(future: Future[None]) -> None:
    if (exc := future.exception()) is not None:
        _note(exc)


def _note(exc: BaseException) -> None:
    """Its lease expires by itself, and its tokens slide out of the minute."""
    logger.info("A request that is over still counts for its key for a while: %s", exc)
