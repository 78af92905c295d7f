"""Waiting for an upstream that has an end: a limit of time, or somebody who says stop.

httpx limits the time between two bytes, which an upstream that sends a byte now and then never exceeds.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any


class Deadline:
    """Waits for an upstream until a limit passes or somebody stops it. Make it on the event loop that waits."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._error: Exception | None = None

    def stop(self, error: Exception) -> None:
        """Make whoever waits, or will wait, get an error. From any thread."""
        self._error = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._wake)

    async def wait(self, task: asyncio.Future[Any], limit_s: float) -> bool:
        """Whether a task is done before the limit; it goes on if it is not.

        Raises:
            Exception: what `stop` was given.
        """
        if not task.done() and self._error is None:
            await asyncio.wait({task, self._stopped}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if self._error is not None:
            raise self._error
        return task.done()

    async def pause(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            Exception: what `stop` was given.
        """
        await self.wait(self._loop.create_future(), seconds)

    def _wake(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)
