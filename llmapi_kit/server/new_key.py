"""What is handed to a teammate once: a key, or an invitation to one. No text of either shows its secret."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from html import escape


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made; nobody can look it up later.

    Attributes:
        name: whose it is.
        api_key: the key.
        prefix: how it begins, as lists of keys show it.
        base_url: what OpenAI clients take as ``base_url``.
        expires_at: Unix time in seconds; None for never.
    """

    name: str
    api_key: str = field(repr=False)
    prefix: str
    base_url: str
    expires_at: float | None = None

    def __str__(self) -> str:
        """For people, without the key."""
        end = "" if self.expires_at is None else f", until {_minute(self.expires_at)}"
        return (
            f"Key {self.name!r} ({self.prefix}…){end} for {self.base_url}. It is shown once: .api_key is the whole key."
        )

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self))}</p>"


@dataclass(frozen=True, slots=True)
class Invitation:
    """A link that makes one key for one person, once.

    Attributes:
        name: who is invited.
        url: the link; whoever opens it first gets the key.
        code: what the link holds, for `POST /invitations`.
        expires_at: until when it can be opened; Unix time in seconds.
    """

    name: str
    url: str = field(repr=False)
    code: str = field(repr=False)
    expires_at: float

    def __str__(self) -> str:
        """For people, without the code."""
        return (
            f"Invitation of {self.name!r}, good until {_minute(self.expires_at)}. "
            "It is shown once: .url is the link to send, and opens for whoever comes first."
        )

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self))}</p>"


def _minute(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
