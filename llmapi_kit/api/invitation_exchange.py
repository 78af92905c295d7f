"""`Invitations`: who has an invitation's code gets a key for it, once.

A code is looked up in memory by its digest, so that those who try codes cost no query, and learn nothing but that
theirs is none; after some tries in a minute they are told to wait, which does not touch those who have a code. On the
server's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from llmapi_kit.api.auth import digest_of, new_api_key, prefix_of
from llmapi_kit.api.key_ring import KeyRing
from llmapi_kit.api.limiter import Attempts
from llmapi_kit.errors import GoneError, NotFoundError
from llmapi_kit.store.stored_key import StoredKey

MAX_WRONG_A_MINUTE = 30
Exchange = Callable[[bytes, bytes, str], Awaitable[StoredKey | None]]


class Invitations:
    """Exchanges codes for keys.

    Args:
        ring: knows the open invitations.
        exchange: makes an invitation a key in the database; see `llmapi_kit.store.keys.KeyStore.exchange`.
        refresh: has the ring know what changed; blocks.
    """

    def __init__(self, ring: KeyRing, exchange: Exchange, refresh: Callable[[], None]) -> None:
        self._ring = ring
        self._exchange = exchange
        self._refresh = refresh
        self._wrong = Attempts(MAX_WRONG_A_MINUTE)

    async def exchange(self, code: str) -> tuple[str, StoredKey]:
        """A new key for a code, and what is kept of it.

        Raises:
            NotFoundError: it is no invitation's.
            GoneError: it was used, withdrawn, or not used in time.
            RateLimitError: it is none's, and too many like that came.
        """
        digest = digest_of(code)
        if self._ring.invitation(digest) is None:
            self._wrong.add()
            raise NotFoundError(
                "There is no such invitation. Open the link again as it was sent, or ask for a new one.",
                param="code",
                code="invitation_not_found",
            )
        api_key = new_api_key()
        invited = await self._exchange(digest, digest_of(api_key), prefix_of(api_key))
        if invited is None or invited.digest != digest_of(api_key):
            raise GoneError(
                "The invitation was used already, was withdrawn or has expired. Ask for a new one.",
                param="code",
                code="invitation_gone",
            )
        await asyncio.to_thread(self._refresh)
        return api_key, invited
