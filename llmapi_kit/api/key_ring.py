"""The teammates' keys that a server knows, in memory: looked up by each request, replaced as a whole when one changes.

Knows no database. All methods may be called from any thread.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from llmapi_kit.errors import AuthenticationError, ForbiddenError, RequestError
from llmapi_kit.store.stored_key import StoredKey


@dataclass(frozen=True, slots=True)
class _Keys:
    """Keys by id and by digest. Never changed, so that reading needs no lock."""

    by_id: dict[str, StoredKey] = field(default_factory=dict)
    by_digest: dict[bytes, StoredKey] = field(default_factory=dict)
    by_code: dict[bytes, StoredKey] = field(default_factory=dict)


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
        known = list(keys)
        self._keys = _Keys(
            {key.id: key for key in known},
            {key.digest: key for key in known if key.digest is not None},
            {key.code_digest: key for key in known if key.code_digest is not None},
        )

    def all(self) -> list[StoredKey]:
        """Every key, the oldest first, also those that open nothing."""
        return sorted(self._keys.by_id.values(), key=lambda key: key.created_at)

    def get(self, key_id: str) -> StoredKey | None:
        """The key of an id, whatever its state."""
        return self._keys.by_id.get(key_id)

    def find(self, digest: bytes) -> StoredKey | None:
        """The key of this digest, whatever its state."""
        found = self._keys.by_digest.get(digest)
        # The look-up's time tells of digests only, and nobody can choose how theirs begins
        return found if found is not None and hmac.compare_digest(found.digest or b"", digest) else None

    def invitation(self, code_digest: bytes) -> StoredKey | None:
        """The key that a code of this digest is or was an invitation to."""
        found = self._keys.by_code.get(code_digest)
        return found if found is not None and hmac.compare_digest(found.code_digest or b"", code_digest) else None

    def opening(self) -> frozenset[bytes]:
        """The digests of all keys that open now."""
        now = self._clock()
        return frozenset(digest for digest, key in self._keys.by_digest.items() if key.state(now) == "active")

    def refusal(self, key: StoredKey) -> RequestError | None:
        """Why a key that once opened does so no more; None for one that does."""
        current = self.get(key.id)
        state = "revoked" if current is None else current.state(self._clock())
        if state == "active" and current is not None and current.digest == key.digest:
            return None
        if state == "paused":
            return ForbiddenError(
                f"The API key {key.name!r} is paused. Whoever runs this server can let it go on.", code="key_paused"
            )
        happened = {"expired": "has expired", "active": "was replaced by a new one"}.get(state, "was revoked")
        return AuthenticationError(f"The API key {key.name!r} {happened}.")
