"""Whose request it is: the owner of the server, or a teammate with a key of their own."""

from __future__ import annotations

from dataclasses import dataclass

from llmapi_kit.store.stored_key import KeyLimits, StoredKey

OWNER = "owner"
"""The name of the key that the server was launched with; no teammate's key has it."""


NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is answered.

    Attributes:
        id: of the key; usage, sessions, stored completions and cached prompts belong to it.
        name: of the key.
        is_owner: whether it is the key that the server was launched with.
        limits: what the key may do.
        expires_at: Unix time at which the key opens no more; None for never.
    """

    id: str
    name: str = OWNER
    is_owner: bool = True
    limits: KeyLimits = NO_LIMITS
    expires_at: float | None = None

    @classmethod
    def teammate(cls, key: StoredKey) -> Caller:
        """Whoever has this key."""
        return cls(key.id, key.name, False, key.limits, key.expires_at)
