"""The thread that does what no request waits for: writes usage within a second or so, and forgets what has expired."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from llmapi_kit.errors import StoreError

logger = logging.getLogger(__name__)

GATHER_S = 0.5
MAX_RETRY_S = 30.0
SWEEP_EVERY_S = 600.0


class Housekeeper:
    """Calls `flush` soon after each `wake`, and `sweep` at the start and now and then. A failure is tried again later.

    Args:
        flush: writes what is to be written, and waits for it.
        sweep: forgets what has expired, and waits for it.
        gather_s: how long to wait for more before it writes.
    """

    def __init__(self, flush: Callable[[], None], sweep: Callable[[], None], *, gather_s: float = GATHER_S) -> None:
        self._flush = flush
        self._sweep = sweep
        self._gather_s = gather_s
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._retry_s = 0.0
        self._thread = threading.Thread(target=self._run, name="llmapi_kit housekeeper", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is something to write."""
        self._woken.set()

    def stop(self, timeout_s: float) -> None:
        """End the thread; what it still had to do is left to who stops it. Safe to call twice."""
        self._stopped.set()
        self._woken.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        swept_at = -SWEEP_EVERY_S
        while not self._stopped.is_set():
            if time.monotonic() - swept_at >= SWEEP_EVERY_S:
                swept_at = time.monotonic()
                self._try(self._sweep, "forget what has expired")
            self._woken.wait(SWEEP_EVERY_S)
            if self._stopped.wait(self._gather_s) or not self._woken.is_set():
                continue
            self._woken.clear()
            if self._try(self._flush, "write the usage"):
                self._retry_s = 0.0
            else:
                self._retry_s = min(MAX_RETRY_S, max(1.0, 2 * self._retry_s))
                self._stopped.wait(self._retry_s)
                self._woken.set()

    def _try(self, work: Callable[[], None], what: str) -> bool:
        try:
            work()
        except StoreError as exc:
            logger.warning("Could not %s, and will try again: %s", what, exc)
            return False
        except Exception:
            logger.exception("Could not %s", what)
            return False
        return True
