"""Rows that belong to an owner each: who has a room of its own, so that one can't push out what another keeps.

What belongs to another owner is not there. Used within `Database.run`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Delete, Select, Table, delete, func, select

from llmapi_kit.store.database import Database

ID = re.compile(r"[!-~]{1,64}")
# As many parameters as every SQLite takes
MAX_IDS = 500


class OwnedRows:
    """The rows of a table: of each owner the latest ones that fit, the oldest go first.

    Args:
        database: an open one.
        table: with ``id``, which sorts by when a row was made, ``owner``, ``size_bytes`` and ``stored_at``.
        max_rows: so many an owner.
        max_bytes: so much an owner.
        expire_s: how long one is kept; an owner that never comes back takes no room for ever.
        clock: the time, as `time.time` tells it.
    """

    def __init__(
        self,
        database: Database,
        table: Table,
        *,
        max_rows: int,
        max_bytes: int,
        expire_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._table = table
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._expire_s = expire_s
        self.clock = clock

    def fits(self, size_bytes: int) -> bool:
        """Whether one of this size may be kept at all."""
        return size_bytes <= self._max_bytes and self._max_rows > 0

    def lock(self, connection: Connection, owner: str) -> None:
        """Two at once would both find room for one."""
        self._database.lock(connection, f"{self._table.name} of {owner}")

    def one(self, owner: str, row_id: str) -> Select[Any]:
        """The owner's row of this id."""
        rows = self._table.c
        return select(self._table).where(rows.id == row_id, rows.owner == owner)

    def delete_one(self, owner: str, row_id: str) -> Delete:
        """Forgets the owner's row of this id."""
        rows = self._table.c
        return delete(self._table).where(rows.id == row_id, rows.owner == owner)

    def make_room(self, connection: Connection, owner: str, kept: str) -> None:
        """Forget the owner's oldest, but not the one whose id is `kept`, until the others fit."""
        rows = self._table.c
        total = select(func.count(), func.coalesce(func.sum(rows.size_bytes), 0)).where(rows.owner == owner)
        num, num_bytes = map(int, connection.execute(total).one())
        if num <= self._max_rows and num_bytes <= self._max_bytes:
            return
        gone = []
        oldest = select(rows.id, rows.size_bytes).where(rows.owner == owner, rows.id != kept)
        for row in connection.execute(oldest.order_by(rows.id)):
            if num <= self._max_rows and num_bytes <= self._max_bytes:
                break
            gone.append(row.id)
            num, num_bytes = num - 1, num_bytes - row.size_bytes
        for start in range(0, len(gone), MAX_IDS):
            connection.execute(delete(self._table).where(rows.id.in_(gone[start : start + MAX_IDS])))

    def remove_expired_in(self, connection: Connection) -> int:
        """Forget every owner's rows that have expired; work for `Database.run`."""
        expired = self._table.c.stored_at <= self.clock() - self._expire_s
        return connection.execute(delete(self._table).where(expired)).rowcount
