"""A chat completion that a client asked to keep. Light, so that the API need not import a database."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class StoredCompletion:
    """A completion as it is kept: JSON texts, so that what it takes is known and listing it encodes nothing again.

    Attributes:
        id: of the completion; ids sort by when they were made.
        owner: the id of the key that may see it.
        model: that answered.
        body: the completion without its metadata, a JSON object.
        messages: (id, JSON object) of each message of the question.
        metadata: the client's own words about it.
    """

    id: str
    owner: str
    model: str
    body: bytes
    messages: Sequence[tuple[str, bytes]]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """What it takes, as JSON."""
        return len(self.body) + len(encode(self.metadata)) + sum(len(message) for _, message in self.messages)

    def as_json(self) -> bytes:
        """The completion with its metadata, a JSON object."""
        return self.body[:-1] + b',"metadata":' + encode(self.metadata) + b"}"


@dataclass(frozen=True, slots=True)
class CompletionFilter:
    """Which completions to list.

    Attributes:
        owner: whose.
        model: of which model; empty for any.
        metadata: pairs that each of them has.
    """

    owner: str
    model: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


def encode(value: Any) -> bytes:
    """JSON as it is kept and sent."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
