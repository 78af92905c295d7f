"""Finished chat completions, kept for clients that ask for it with `store`.

`CompletionStore` is what the routes need; `MemoryCompletionStore` keeps everything in this process, within bounds, and
forgets it when the server ends. Both know JSON and owners, not HTTP. On the server's event loop only.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

logger = logging.getLogger(__name__)


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

    def accepts(self, stored: StoredCompletion) -> bool:
        """Whether a completion is one of them."""
        has_model = self.model in ("", stored.model)
        return stored.owner == self.owner and has_model and self.metadata.items() <= stored.metadata.items()


class CompletionStore(Protocol):
    """Keeps completions. What belongs to another owner is not there."""

    async def add(self, stored: StoredCompletion) -> None:
        """Keep a new completion."""
        ...

    async def get(self, owner: str, completion_id: str) -> StoredCompletion | None:
        """One completion, if it is there."""
        ...

    async def update(self, owner: str, completion_id: str, metadata: Mapping[str, str]) -> StoredCompletion | None:
        """Replace a completion's metadata; returns it as it is then, if it is there."""
        ...

    async def delete(self, owner: str, completion_id: str) -> bool:
        """Forget a completion; False if it was not there. Of several at once, one gets True."""
        ...

    async def page(
        self, wanted: CompletionFilter, *, after: str, limit: int, newest_first: bool
    ) -> list[StoredCompletion]:
        """The first `limit` completions in the order of their ids.

        Args:
            wanted: which.
            after: the id to go on from, which need not be there any more; empty for the beginning.
            limit: at most so many.
            newest_first: in descending order.
        """
        ...


class MemoryCompletionStore:
    """Keeps completions in this process: the latest ones that fit, the oldest go first, whoever owns them.

    Args:
        max_completions: so many.
        max_bytes: so much, counted as JSON.
    """

    def __init__(self, max_completions: int, max_bytes: int) -> None:
        self._max_completions = max_completions
        self._max_bytes = max_bytes
        self._kept: dict[str, StoredCompletion] = {}  # in the order they came
        self._num_bytes = 0

    async def add(self, stored: StoredCompletion) -> None:
        """Keep a new completion, in place of the oldest ones; not one that is larger than all there is room for."""
        if stored.size_bytes > self._max_bytes or not self._max_completions:
            logger.warning("%s was not stored: it is larger than max_stored_bytes, %d", stored.id, self._max_bytes)
            return
        self._put(stored)

    async def get(self, owner: str, completion_id: str) -> StoredCompletion | None:
        """See `CompletionStore`."""
        stored = self._kept.get(completion_id)
        return stored if stored is not None and stored.owner == owner else None

    async def update(self, owner: str, completion_id: str, metadata: Mapping[str, str]) -> StoredCompletion | None:
        """See `CompletionStore`. Where it needs more room than before, others go."""
        stored = await self.get(owner, completion_id)
        if stored is None:
            return None
        self._num_bytes -= stored.size_bytes
        updated = replace(stored, metadata=dict(metadata))
        self._put(updated)
        return updated

    async def delete(self, owner: str, completion_id: str) -> bool:
        """See `CompletionStore`."""
        if await self.get(owner, completion_id) is None:
            return False
        self._remove(completion_id)
        return True

    async def page(
        self, wanted: CompletionFilter, *, after: str, limit: int, newest_first: bool
    ) -> list[StoredCompletion]:
        """See `CompletionStore`."""
        found = [stored for stored in self._kept.values() if wanted.accepts(stored)]
        if after:
            found = [stored for stored in found if (stored.id < after if newest_first else stored.id > after)]
        return sorted(found, key=lambda stored: stored.id, reverse=newest_first)[:limit]

    def _put(self, stored: StoredCompletion) -> None:
        self._kept[stored.id] = stored
        self._num_bytes += stored.size_bytes
        for oldest in list(self._kept):
            if len(self._kept) <= self._max_completions and self._num_bytes <= self._max_bytes:
                break
            if oldest != stored.id:
                self._remove(oldest)

    def _remove(self, completion_id: str) -> None:
        self._num_bytes -= self._kept.pop(completion_id).size_bytes


def encode(value: Any) -> bytes:
    """JSON as it is kept and sent."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
