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
        key: a teammate's; None for the owner's.
    """

    id: str
    key: StoredKey | None = None

    @property
    def is_owner(self) -> bool:
        """Whether it is the key that the server was launched with."""
        return self.key is None

    @property
    def name(self) -> str:
        """Of the key."""
        return OWNER if self.key is None else self.key.name

    @property
    def limits(self) -> KeyLimits:
        """What the key may do."""
        return NO_LIMITS if self.key is None else self.key.limits

    @property
    def expires_at(self) -> float | None:
        """Unix time at which the key opens no more; None for never."""
        return None if self.key is None else self.key.expires_at
