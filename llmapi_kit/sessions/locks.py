"""One ask at a time in each session, and a time limit that stops what runs under it.

Both are for one event loop. Locks are of one server: several servers on one database are kept apart by the store,
which refuses a write that does not follow what its writer has seen.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from types import TracebackType

from llmapi_kit.errors import QueueFullError, RequestTimeoutError

# Each waits for all before it; nobody waits that long
MAX_WAITING = 128


@dataclass(slots=True)
class _Line:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    num: int = 0


class SessionLocks:
    """Locks by session, first come first served. A lock is there only while somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}

    @contextlib.asynccontextmanager
    async def hold(self, session_id: str) -> AsyncGenerator[None, None]:
        """Be the only one in a session.

        Raises:
            QueueFullError: too many wait already.
        """
        line = self._lines.setdefault(session_id, _Line())
        if line.num >= MAX_WAITING:
            raise QueueFullError(f"{line.num} asks wait in this session already; wait for a reply first.")
        line.num += 1
        try:
            async with line.lock:
                yield
        finally:
            line.num -= 1
            if not line.num:
                del self._lines[session_id]

    def __len__(self) -> int:
        return len(self._lines)


class Deadline:
    """Stops the task that entered it when the time is over, unless it was lifted.

    Args:
        timeout_s: how long.
        what: begins the message of the error.

    Raises:
        RequestTimeoutError: on leaving, if the time was over.
    """

    def __init__(self, timeout_s: float, what: str) -> None:
        self._timeout_s = timeout_s
        self._what = what
        self._is_over = False
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Deadline:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._expire)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._disarm()
        if self._is_over and isinstance(error, asyncio.CancelledError):
            if self._task is not None and hasattr(self._task, "uncancel"):  # Python 3.11+
                self._task.uncancel()
            raise self._error() from error

    def lift(self) -> None:
        """Let what follows take its time.

        Raises:
            RequestTimeoutError: the time was over, and what was stopped did not end by it.
        """
        self._disarm()
        if self._is_over:
            raise self._error()

    def _expire(self) -> None:
        self._is_over = True
        if self._task is not None:
            self._task.cancel()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _error(self) -> RequestTimeoutError:
        return RequestTimeoutError(f"{self._what} within {self._timeout_s:g} s, so it was stopped.", param="timeout")
