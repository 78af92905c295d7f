"""Responses that clients asked to store, and the conversations that they go on in.

Each owner has a room of its own. What belongs to another owner is not there. Every change is committed when it returns.
May be used from any event loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Select, insert, update

from llmapi_kit.store import tables
from llmapi_kit.store.database import Database
from llmapi_kit.store.owned_rows import ID, OwnedRows
from llmapi_kit.store.stored_response import StoredResponse

logger = logging.getLogger(__name__)

responses = tables.responses.c


class ResponseStore:
    """The responses of a database: of each owner the latest ones that fit, the oldest go first.

    Args:
        database: an open one.
        max_responses: so many an owner.
        max_bytes: so much an owner.
        expire_s: how long one is kept; an owner that never comes back takes no room for ever.
        clock: the time, as `time.time` tells it.
    """

    def __init__(
        self,
        database: Database,
        *,
        max_responses: int,
        max_bytes: int,
        expire_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._max_bytes = max_bytes
        self._rows = OwnedRows(
            database, tables.responses, max_rows=max_responses, max_bytes=max_bytes, expire_s=expire_s, clock=clock
        )

    async def add(self, stored: StoredResponse) -> None:
        """Keep a new response, in place of the owner's oldest ones; not one that is larger than all the room.

        Raises:
            StoreError: the database failed.
        """
        if not self._rows.fits(stored.size_bytes):
            self._warn(stored)
            return
        values = {
            "id": stored.id,
            "owner": stored.owner,
            "previous_id": stored.previous_id,
            "body": stored.body,
            "input": stored.input,
            "events": stored.events,
            "size_bytes": stored.size_bytes,
            "stored_at": self._rows.clock(),
        }

        def work(connection: Connection) -> None:
            self._rows.lock(connection, stored.owner)
            connection.execute(insert(tables.responses), values)
            self._rows.make_room(connection, stored.owner, stored.id)

        await self._database.run(work)

    async def change(self, stored: StoredResponse) -> bool:
        """Keep what became of a response; False, and nothing is kept, where it was deleted meanwhile or is too large.

        Raises:
            StoreError: the database failed.
        """
        if not self._rows.fits(stored.size_bytes):
            self._warn(stored)
            await self.delete(stored.owner, stored.id)
            return False
        values = {"body": stored.body, "events": stored.events, "size_bytes": stored.size_bytes}

        def work(connection: Connection) -> bool:
            self._rows.lock(connection, stored.owner)
            mine = responses.id == stored.id, responses.owner == stored.owner
            is_there = connection.execute(update(tables.responses).where(*mine).values(values)).rowcount == 1
            self._rows.make_room(connection, stored.owner, stored.id)
            return is_there

        return await self._database.run(work)

    async def get(self, owner: str, response_id: str) -> StoredResponse | None:
        """One response, if it is there.

        Raises:
            StoreError: the database failed.
        """
        if not ID.fullmatch(response_id):
            return None
        found = self._rows.one(owner, response_id)
        return await self._database.run(lambda connection: _load(connection, found), is_read=True)

    async def chain(self, owner: str, response_id: str) -> tuple[list[StoredResponse], str]:
        """A response and those that it goes on after, the oldest first; and the id of the first that is not there.

        Raises:
            StoreError: the database failed.
        """

        def work(connection: Connection) -> tuple[list[StoredResponse], str]:
            found: list[StoredResponse] = []
            wanted = response_id
            while wanted:
                stored = _load(connection, self._rows.one(owner, wanted)) if ID.fullmatch(wanted) else None
                if stored is None:
                    break
                found.append(stored)
                wanted = stored.previous_id
            return found[::-1], wanted

        return await self._database.run(work, is_read=True)

    async def delete(self, owner: str, response_id: str) -> bool:
        """Forget a response; False if it was not there. Of several at once, one gets True.

        Raises:
            StoreError: the database failed.
        """
        if not ID.fullmatch(response_id):
            return False
        gone = self._rows.delete_one(owner, response_id)
        return await self._database.run(lambda connection: connection.execute(gone).rowcount) == 1

    def _warn(self, stored: StoredResponse) -> None:
        logger.warning("%s was not stored: it is larger than max_stored_bytes, %d", stored.id, self._max_bytes)

    def remove_expired_in(self, connection: Connection) -> int:
        """Forget every owner's responses that have expired; work for `Database.run`."""
        return self._rows.remove_expired_in(connection)


def _load(connection: Connection, found: Select[Any]) -> StoredResponse | None:
    row = connection.execute(found).one_or_none()
    if row is None:
        return None
    return StoredResponse(row.id, row.owner, row.body, row.input, row.previous_id, row.events)
