"""A response that a client asked to keep. Light, so that the API need not import a database."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response as it is kept: JSON texts, so that what it takes is known.

    Attributes:
        id: of the response; ids sort by when they were made.
        owner: the id of the key that may see it.
        body: the response, a JSON object.
        input: its own input items, a JSON array.
        previous_id: the response that it goes on after; empty for none.
        events: what was streamed, packed; empty for a response that came whole.
    """

    id: str
    owner: str
    body: bytes
    input: bytes
    previous_id: str = ""
    events: bytes = b""

    @property
    def size_bytes(self) -> int:
        """What it takes."""
        return len(self.body) + len(self.input) + len(self.events)

    @property
    def response(self) -> dict[str, Any]:
        """The response."""
        read: dict[str, Any] = json.loads(self.body)
        return read

    @property
    def items(self) -> list[dict[str, Any]]:
        """Its own input items."""
        read: list[dict[str, Any]] = json.loads(self.input)
        return read
