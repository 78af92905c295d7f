"""Keeps the keys that a server knows as they are in the database, and ends what is under way for those that closed.

What this process changes is known at once; what another one changes, such as the command line or another server with
the same database, within a second, without a query by any request. A thread of its own looks at the database.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llmapi_kit.api.key_ring import KeyRing
from llmapi_kit.errors import StoreError
from llmapi_kit.store.stored_key import StoredKey

if TYPE_CHECKING:
    from llmapi_kit.store.keys import KeyStore  # a cell that only loads a model should not wait for SQLAlchemy

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.4
COUNT_EVERY_S = 5.0


class KeyWatch:
    """Watches the keys of one server. The methods may be called from any thread.

    Args:
        store: the keys in the database.
        ring: the keys that requests are checked against.
        on_close: called when a key that opened does so no more; must be quick.
        count: learns from the database what these keys have used; called now and then.
        look_every_s: how often to look at the database.

    Raises:
        StoreError: the database failed.
    """

    def __init__(
        self,
        store: KeyStore,
        ring: KeyRing,
        on_close: Callable[[], object],
        *,
        count: Callable[[Sequence[StoredKey]], object] = lambda keys: None,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._store = store
        self._ring = ring
        self._on_close = on_close
        self._count = count
        self._look_every_s = look_every_s
        self._counted_at = -math.inf
        self._lock = threading.Lock()
        self._revision = -1
        self._opening: frozenset[bytes] = frozenset()
        self._is_blind = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="llmapi_kit keys", daemon=True)
        self.refresh()

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Safe to call twice, and before `start`."""
        self._stopped.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(1)

    def refresh(self) -> None:
        """Know the keys as they are now.

        Raises:
            StoreError: the database failed; the keys stay as they were known.
        """
        with self._lock:
            if self._store.revision() != self._revision:
                self._revision, keys = self._store.all()
                self._ring.replace(keys)
                self._counted_at = -math.inf
            if time.monotonic() - self._counted_at >= COUNT_EVERY_S:
                self._count(self._ring.all())
                self._counted_at = time.monotonic()
            opening = self._ring.opening()
            closed, self._opening = self._opening - opening, opening
        if closed:
            self._on_close()

    def _run(self) -> None:
        while not self._stopped.wait(self._look_every_s):
            try:
                self.refresh()
                self._is_blind = False
            except StoreError as exc:
                if not self._is_blind and not self._stopped.is_set():
                    logger.warning("Keys stay as they were until the database answers: %s", exc)
                self._is_blind = True
