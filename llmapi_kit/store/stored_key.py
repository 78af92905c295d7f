"""A teammate's key as the database has it. Light, so that whoever checks keys need not import a database."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

KeyState = Literal["active", "paused", "invited", "expired", "revoked"]


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
    """One key of a server, or an invitation to one. The key itself is nowhere.

    Attributes:
        id: stays the same when the key is rotated; usage, sessions and stored completions belong to it.
        name: whose it is; no two keys that may open, now or later, have the same one.
        created_at: Unix time in seconds, as all times here.
        digest: SHA-256 of the key; None while nobody has exchanged the invitation.
        prefix: how the key begins, to tell it by.
        code_digest: SHA-256 of the invitation's code; None for a key that was made without one.
        code_expires_at: until when the code can be exchanged.
        expires_at: when the key opens no more; None for never.
        revoked_at: when it was revoked; None if it was not.
        is_paused: whether it opens nothing for now.
        limits: what it may do.
    """

    id: str
    name: str
    created_at: float
    digest: bytes | None = field(default=None, repr=False)
    prefix: str = ""
    code_digest: bytes | None = field(default=None, repr=False)
    code_expires_at: float | None = None
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
        if self.digest is None:
            return "expired" if now >= (self.code_expires_at or 0) else "invited"
        return "paused" if self.is_paused else "active"
