"""The teammates' keys that a server knows, in memory: looked up by each request, replaced as a whole when one changes.

Knows no database. All methods may be called from any thread.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from llmapi_kit.errors import AuthenticationError, ForbiddenError, RequestError
from llmapi_kit.store.stored_key import KeyState, StoredKey


@dataclass(frozen=True, slots=True)
class _Keys:
    """Keys by id and by digest. Never changed, so that reading needs no lock."""

    by_id: dict[str, StoredKey] = field(default_factory=dict)
    by_digest: dict[bytes, StoredKey] = field(default_factory=dict)


class KeyRing:
    """Keys that are not the owner's.

    Args:
        clock: the time, as `time.time` tells it.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._keys = _Keys()

    def replace(self, keys: Iterable[StoredKey]) -> None:
        """Know these keys from now on, and no others."""
        by_id = {key.id: key for key in keys}
        self._keys = _Keys(by_id, {key.digest: key for key in by_id.values()})

    def all(self) -> list[StoredKey]:
        """Every key, the oldest first, also those that open nothing."""
        return sorted(self._keys.by_id.values(), key=lambda key: key.created_at)

    def get(self, key_id: str) -> StoredKey | None:
        """The key of an id, whatever its state."""
        return self._keys.by_id.get(key_id)

    def find(self, digest: bytes) -> StoredKey | None:
        """The key of this digest, whatever its state."""
        found = self._keys.by_digest.get(digest)
        # A look-up takes as long as it takes, which tells of digests only: nobody can choose how theirs begins
        return found if found is not None and hmac.compare_digest(found.digest, digest) else None

    def state(self, key: StoredKey) -> KeyState:
        """Whether a key opens now, and if not, why not."""
        return key.state(self._clock())

    def refusal(self, key: StoredKey | None) -> RequestError | None:
        """Why a key opens nothing now; None for one that opens. A key that is gone was revoked."""
        if key is None:
            return AuthenticationError("The API key was revoked.")
        state = self.state(key)
        if state == "active":
            return None
        if state == "paused":
            return ForbiddenError(
                f"The API key {key.name!r} is paused. Whoever runs this server can let it go on.", code="key_paused"
            )
        return AuthenticationError(
            f"The API key {key.name!r} {'has expired' if state == 'expired' else 'was revoked'}."
        )
