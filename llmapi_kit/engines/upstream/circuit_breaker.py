"""Stops asking an upstream that keeps failing, and asks it again now and then.

Closed: everything passes. After several failures in a row it opens: requests are refused at once. After a while one
request is let through; if it succeeds the circuit closes, else it stays open.

The libraries there are for this keep their state on one event loop (aiobreaker, purgatory) or know no asyncio
(pybreaker); an engine is asked from several loops in several threads. Thread-safe.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from llmapi_kit.errors import EngineUnavailableError

MAX_FAILURES = 5
OPEN_S = 15.0


class Attempt:
    """One request that was let through. Say how it went, once; saying nothing is not a verdict."""

    def __init__(self) -> None:
        self.verdict: bool | None = None

    def answered(self) -> None:
        """The upstream answers."""
        self.verdict = True

    def failed(self) -> None:
        """The upstream does not work."""
        self.verdict = False


class CircuitBreaker:
    """The circuit breaker of one upstream.

    Args:
        name: of the upstream, for messages.
        max_failures: so many in a row open it.
        open_s: how long it is open before a request is let through.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        name: str,
        *,
        max_failures: int = MAX_FAILURES,
        open_s: float = OPEN_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._max_failures = max_failures
        self._open_s = open_s
        self._clock = clock
        self._lock = threading.Lock()
        self._num_failures = 0
        self._open_until: float | None = None
        self._is_probing = False

    @contextlib.contextmanager
    def attempt(self) -> Iterator[Attempt]:
        """Let a request through.

        Raises:
            EngineUnavailableError: it is open.
        """
        is_probe = self._admit()
        attempt = Attempt()
        try:
            yield attempt
        finally:
            self._learn(attempt.verdict, is_probe=is_probe)

    def completed(self) -> None:
        """An answer came whole: what failed before was not in a row."""
        with self._lock:
            self._num_failures = 0

    def failed(self) -> None:
        """An answer broke off."""
        self._learn(False, is_probe=False)

    def problem(self) -> str:
        """Why requests are refused; empty if they are not."""
        with self._lock:
            if self._open_until is None or self._clock() >= self._open_until:
                return ""
            return f"{self._name} failed {self._num_failures} times in a row and is left alone for a moment."

    def _admit(self) -> bool:
        """Whether this request is the one that tries the upstream out."""
        with self._lock:
            if self._open_until is None:
                return False
            left_s = self._open_until - self._clock()
            if left_s > 0 or self._is_probing:
                raise EngineUnavailableError(
                    f"{self._name} failed {self._num_failures} times in a row and is left alone for a moment. Try "
                    "again later.",
                    code="upstream_unavailable",
                    retry_after_s=max(1.0, left_s),
                )
            self._is_probing = True
            return True

    def _learn(self, verdict: bool | None, *, is_probe: bool) -> None:
        with self._lock:
            if is_probe:
                self._is_probing = False
            if verdict is False:
                self._num_failures += 1
                if self._num_failures >= self._max_failures:
                    self._open_until = self._clock() + self._open_s
            elif verdict and is_probe:
                self._num_failures, self._open_until = 0, None
