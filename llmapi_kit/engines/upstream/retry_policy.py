"""Asks an upstream until it answers or there is no point in asking again.

A refused or limited key makes way for the next one at once; an upstream that fails is asked again after a moment. Only
what has not begun to answer is repeated, so nobody gets the beginning of an answer twice.

tenacity repeats a call too, but here which key comes next decides whether there is a wait and whether it counts.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from llmapi_kit.engines.upstream.circuit_breaker import CircuitBreaker
from llmapi_kit.engines.upstream.deadline import Deadline
from llmapi_kit.engines.upstream.faults import DEFAULT_COOL_DOWN_S, UpstreamFault
from llmapi_kit.engines.upstream.key_pool import Key, KeyPool
from llmapi_kit.errors import RequestError

logger = logging.getLogger(__name__)

T = TypeVar("T")
FIRST_PAUSE_S = 0.25
# Who is told to wait longer than this is better served by another engine, or by asking again.
MAX_PAUSE_S = 2.0


class RetryPolicy:
    """Repeats requests to one upstream.

    Args:
        provider: its name, for logs.
        keys: tried one after the other.
        circuit: says whether there is a point in asking.
        max_retries: how often an upstream that fails is asked again.
        deadline_s: no repetition begins later than this after the first attempt.
    """

    def __init__(
        self, provider: str, keys: KeyPool, circuit: CircuitBreaker, *, max_retries: int, deadline_s: float
    ) -> None:
        self._provider = provider
        self._keys = keys
        self._circuit = circuit
        self._max_retries = max_retries
        self._deadline_s = deadline_s

    async def run(self, send: Callable[[Key], Awaitable[T]], *, affinity: str, deadline: Deadline) -> T:
        """What `send` returns for the first key that works.

        Args:
            send: asks the upstream with a key; raises `UpstreamFault`.
            affinity: see `KeyPool.pick`.
            deadline: waits between attempts.

        Raises:
            RequestError: none worked.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._deadline_s
        num_pauses = 0
        while True:
            try:
                return await self._round(send, affinity)
            except UpstreamFault as exc:
                fault = exc
            pause_s = fault.wait_s if fault.wait_s is not None else _backoff_s(num_pauses)
            can_wait = pause_s <= MAX_PAUSE_S and loop.time() + pause_s <= give_up_at
            if fault.blame in ("client", "key", "answer") or num_pauses == self._max_retries or not can_wait:
                raise fault.error  # not from the fault, whose frames hold a key
            num_pauses += 1
            logger.info("%s: %s Trying again in %.1f s", self._provider, fault.error.message, pause_s)
            await deadline.pause(pause_s)

    async def _round(self, send: Callable[[Key], Awaitable[T]], affinity: str) -> T:
        """Try each key once, until one works or it is not the key's fault.

        Raises:
            UpstreamFault: why the last one did not.
            RequestError: none can be used now.
        """
        tried: list[Key] = []
        last: UpstreamFault | None = None
        while True:
            try:
                key = self._keys.pick(affinity, tried)
            except RequestError as exc:
                raise last or UpstreamFault(exc, "rate" if exc.status == 429 else "key", exc.retry_after_s) from None
            if key is None:
                if last is None:
                    raise RuntimeError("a pool without keys")
                raise last
            try:
                return await self._attempt(send, key)
            except UpstreamFault as exc:
                last = exc
            if last.blame in ("client", "answer", "upstream"):
                raise last
            self._rest(key, last)
            tried.append(key)

    async def _attempt(self, send: Callable[[Key], Awaitable[T]], key: Key) -> T:
        with self._circuit.attempt() as attempt:
            try:
                result = await send(key)
            except UpstreamFault as exc:
                if exc.blame == "upstream":
                    attempt.failed()
                else:
                    attempt.answered()
                raise
            attempt.answered()
            return result

    def _rest(self, key: Key, fault: UpstreamFault) -> None:
        if fault.blame == "key":
            logger.error("%s, %s: %s", self._provider, key.label, fault.error.message)
            self._keys.quarantine(key)
        else:
            seconds = fault.wait_s if fault.wait_s is not None else DEFAULT_COOL_DOWN_S
            logger.warning("%s, %s: rests for %.1f s, as its rate is limited", self._provider, key.label, seconds)
            self._keys.cool_down(key, seconds)


def _backoff_s(num_pauses: int) -> float:
    """Longer each time, and not the same for all who wait."""
    return float(FIRST_PAUSE_S * 2**num_pauses * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
