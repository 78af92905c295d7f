"""A teammate's key as the database has it. Light, so that whoever checks keys need not import a database."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

KeyState = Literal["active", "paused", "expired", "revoked"]


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key may do; None for as much as there is.

    Attributes:
        models: names of the models that answer it.
        rpm: requests a minute.
        tpm: tokens a minute, of prompts and answers.
        concurrency: requests at once.
        budget: tokens in all, of prompts and answers.
    """

    models: tuple[str, ...] | None = None
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    budget: int | None = None


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One key of a server. The key itself is nowhere.

    Attributes:
        id: stays the same when the key is rotated; usage, sessions and stored completions belong to it.
        name: whose it is; no two keys that are not revoked have the same one.
        digest: SHA-256 of the key.
        prefix: how the key begins, to tell it by.
        created_at: Unix time in seconds, as all times here.
        expires_at: when it opens no more; None for never.
        revoked_at: when it was revoked; None if it was not.
        is_paused: whether it opens nothing for now.
        limits: what it may do.
    """

    id: str
    name: str
    digest: bytes = field(repr=False)
    prefix: str
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    is_paused: bool = False
    limits: KeyLimits = field(default_factory=KeyLimits)

    def state(self, now: float) -> KeyState:
        """Whether it opens at a time, and if not, why not."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and now >= self.expires_at:
            return "expired"
        return "paused" if self.is_paused else "active"
