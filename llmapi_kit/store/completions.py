"""Chat completions that clients asked to store.

Each owner has a room of its own, so that one can't push out what another keeps. What belongs to another owner is not
there. Every change is committed when it returns. May be used from any event loop.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Select, delete, insert, select, update

from llmapi_kit.store import tables
from llmapi_kit.store.database import Database
from llmapi_kit.store.owned_rows import ID, OwnedRows
from llmapi_kit.store.stored_completion import CompletionFilter, StoredCompletion, encode

logger = logging.getLogger(__name__)

completions = tables.completions.c
labels = tables.completion_labels.c


class CompletionStore:
    """The completions of a database: of each owner the latest ones that fit, the oldest go first.

    Args:
        database: an open one.
        max_completions: so many an owner.
        max_bytes: so much an owner, counted as JSON.
        expire_s: how long one is kept; an owner that never comes back takes no room for ever.
        clock: the time, as `time.time` tells it.
    """

    def __init__(
        self,
        database: Database,
        *,
        max_completions: int,
        max_bytes: int,
        expire_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._max_bytes = max_bytes
        self._rows = OwnedRows(
            database,
            tables.completions,
            max_rows=max_completions,
            max_bytes=max_bytes,
            expire_s=expire_s,
            clock=clock,
        )

    async def add(self, stored: StoredCompletion) -> None:
        """Keep a new completion, in place of the owner's oldest ones; not one that is larger than all the room.

        Raises:
            StoreError: the database failed.
        """
        if not self._rows.fits(stored.size_bytes):
            logger.warning("%s was not stored: it is larger than max_stored_bytes, %d", stored.id, self._max_bytes)
            return
        values = {
            "id": stored.id,
            "owner": stored.owner,
            "model": stored.model,
            "body": stored.body,
            "messages": encode([[message_id, message.decode()] for message_id, message in stored.messages]),
            "metadata": encode(stored.metadata),
            "size_bytes": stored.size_bytes,
            "stored_at": self._rows.clock(),
        }

        def work(connection: Connection) -> None:
            self._rows.lock(connection, stored.owner)
            connection.execute(insert(tables.completions), values)
            _label(connection, stored)
            self._rows.make_room(connection, stored.owner, stored.id)

        await self._database.run(work)

    async def get(self, owner: str, completion_id: str) -> StoredCompletion | None:
        """One completion, if it is there.

        Raises:
            StoreError: the database failed.
        """
        if not ID.fullmatch(completion_id):
            return None
        found = self._rows.one(owner, completion_id)
        return next(iter(await self._database.run(lambda connection: _load(connection, found), is_read=True)), None)

    async def update(self, owner: str, completion_id: str, metadata: Mapping[str, str]) -> StoredCompletion | None:
        """Replace a completion's metadata; returns it as it is then, if it is there.

        Where it needs more room than before, the owner's oldest ones go.

        Raises:
            StoreError: the database failed.
        """
        if not ID.fullmatch(completion_id):
            return None

        def work(connection: Connection) -> StoredCompletion | None:
            self._rows.lock(connection, owner)
            # for update: who deletes it meanwhile has to wait
            for stored in _load(connection, self._rows.one(owner, completion_id).with_for_update()):
                updated = replace(stored, metadata=dict(metadata))
                values = {"metadata": encode(updated.metadata), "size_bytes": updated.size_bytes}
                connection.execute(update(tables.completions).where(completions.id == completion_id).values(values))
                connection.execute(delete(tables.completion_labels).where(labels.completion_id == completion_id))
                _label(connection, updated)
                self._rows.make_room(connection, owner, completion_id)
                return updated
            return None

        return await self._database.run(work)

    async def delete(self, owner: str, completion_id: str) -> bool:
        """Forget a completion; False if it was not there. Of several at once, one gets True.

        Raises:
            StoreError: the database failed.
        """
        if not ID.fullmatch(completion_id):
            return False
        gone = self._rows.delete_one(owner, completion_id)
        return await self._database.run(lambda connection: connection.execute(gone).rowcount) == 1

    async def page(
        self, wanted: CompletionFilter, *, after: str, limit: int, newest_first: bool
    ) -> list[StoredCompletion]:
        """The first `limit` completions in the order of their ids.

        Args:
            wanted: which.
            after: the id to go on from, which need not be there any more; empty for the beginning.
            limit: at most so many.
            newest_first: in descending order.

        Raises:
            StoreError: the database failed.
        """
        found = select(tables.completions).where(completions.owner == wanted.owner)
        if wanted.model:
            found = found.where(completions.model == wanted.model)
        for name, value in wanted.metadata.items():
            pair = labels.completion_id == completions.id, labels.name == name, labels.value == value
            found = found.where(select(labels.name).where(*pair).exists())
        if after:
            found = found.where(completions.id < after if newest_first else completions.id > after)
        found = found.order_by(completions.id.desc() if newest_first else completions.id).limit(limit)
        return await self._database.run(lambda connection: _load(connection, found), is_read=True)

    def remove_expired_in(self, connection: Connection) -> int:
        """Forget every owner's completions that have expired; work for `Database.run`."""
        return self._rows.remove_expired_in(connection)


def _load(connection: Connection, found: Select[Any]) -> list[StoredCompletion]:
    return [
        StoredCompletion(
            id=row.id,
            owner=row.owner,
            model=row.model,
            body=row.body,
            messages=[(message_id, message.encode()) for message_id, message in json.loads(row.messages)],
            metadata=json.loads(row.metadata),
        )
        for row in connection.execute(found)
    ]


def _label(connection: Connection, stored: StoredCompletion) -> None:
    """Let it be found by its metadata."""
    rows = [{"completion_id": stored.id, "name": name, "value": value} for name, value in stored.metadata.items()]
    if rows:
        connection.execute(insert(tables.completion_labels), rows)
