"""How much each key used of each model, by the hour.

Requests count in memory, in constant time, and wait for nothing; what was counted is written in batches. A batch that
could not be written is sent again as it was, with its number, so that it counts once whatever became of the first try.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, fields
from datetime import datetime, timezone
from functools import partial
from typing import Any

from sqlalchemy import Connection, Table, delete, func, select, update

from llmapi_kit.store import tables
from llmapi_kit.store.counts import Counts, DayUsage
from llmapi_kit.store.database import Database, settled

HOUR_S = 3600
HOURS_A_DAY = 24
# Long after a server that could still send a batch again
FORGET_WRITERS_AFTER_S = 30 * 86400.0


Key = tuple[int, str, str]
"""Hour since 1970, owner, model."""
Batch = Mapping[Key, Counts]
COUNTS = [field.name for field in fields(Counts)]


class UsageStore:
    """The usage in a database, and what is still to be written there. All methods may be called from any thread.

    Args:
        database: an open one.
        on_count: called when there is something to write, once until it is taken.
        clock: the time, as `time.time` tells it.
    """

    def __init__(
        self,
        database: Database,
        *,
        on_count: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._on_count = on_count
        self._clock = clock
        self._lock = threading.Lock()
        self._counted: dict[Key, Counts] = defaultdict(Counts)
        self._batch: Batch | None = None  # taken, and not known to be written
        self._writing: Future[None] | None = None
        self._writer = secrets.token_hex(16)
        self._num_batches = 0

    @property
    def num_unwritten(self) -> int:
        """Requests that were counted and are not known to be written."""
        with self._lock:
            is_written = self._writing is not None and self._writing.done() and self._writing.exception() is None
            waiting = [self._counted, {} if is_written else self._batch or {}]
        return sum(counts.requests for batch in waiting for counts in batch.values())

    def count(self, owner: str, model: str, counts: Counts) -> None:
        """Count; waits for nothing."""
        with self._lock:
            is_first = not self._counted
            self._counted[int(self._clock()) // HOUR_S, owner, model].add(counts)
        if is_first:
            self._on_count()

    def flush(self) -> Future[None] | None:
        """Have written what was counted, one batch at a time; None where there is nothing to write.

        Raises:
            StoreUnavailableError: the database takes nothing. What was counted is kept.
        """
        with self._lock:
            if self._writing is not None:
                if not self._writing.done():
                    return self._writing
                if self._writing.exception() is None:
                    self._batch = None
                self._writing = None
            if self._batch is None and self._counted:
                self._batch, self._counted = self._counted, defaultdict(Counts)
                self._num_batches += 1
            if self._batch is not None:
                self._writing = self._database.submit(partial(self._write, self._batch, self._num_batches))
            return self._writing

    def settle(self, timeout_s: float | None = None) -> None:
        """Wait until all that was counted before is written.

        Raises:
            StoreError: it could not be written. It is kept.
            TimeoutError: it took longer.
        """
        for _ in range(2):  # what is being written already, and what was counted meanwhile
            if (writing := self.flush()) is not None:
                writing.result(timeout_s)

    async def read(self, owner: str, start: float, end: float) -> list[DayUsage]:
        """What one key used, by day and model, the oldest first; what was counted before the call is in it.

        Args:
            owner: the id of the key.
            start: Unix time in seconds; the hour that it is in counts.
            end: Unix time in seconds; the hour that begins then counts no more.

        Raises:
            StoreError: the database failed.
        """
        for _ in range(2):
            if (writing := self.flush()) is not None:
                await settled(writing)
        return await self._database.run(partial(_read, owner, start, end), is_read=True)

    async def totals(self, owners: Sequence[str], start: float, end: float) -> dict[str, Counts]:
        """What each of several keys used of all models together; like `read` otherwise.

        Returns:
            Counts by the key's id; keys without usage are left out.

        Raises:
            StoreError: the database failed.
        """
        for _ in range(2):
            if (writing := self.flush()) is not None:
                await settled(writing)
        return await self._database.run(partial(_totals, owners, start, end), is_read=True)

    def totals_sync(self, owners: Sequence[str], start: float, end: float) -> dict[str, Counts]:
        """`totals`, for threads without an event loop."""
        self.settle()
        return self._database.run_sync(partial(_totals, owners, start, end), is_read=True)

    def read_sync(self, owner: str, start: float, end: float) -> list[DayUsage]:
        """`read`, for threads without an event loop."""
        self.settle()
        return self._database.run_sync(partial(_read, owner, start, end), is_read=True)

    def _write(self, batch: Batch, number: int, connection: Connection) -> None:
        now = self._clock()
        if number == 1:
            old = tables.usage_batches.c.written_at < now - FORGET_WRITERS_AFTER_S
            connection.execute(delete(tables.usage_batches).where(old))
        writer = {"writer": self._writer, "batch": 0, "written_at": now}
        connection.execute(_insert(connection, tables.usage_batches).on_conflict_do_nothing(), writer)
        batches = tables.usage_batches.c
        is_new = batches.writer == self._writer, batches.batch < number
        taken = update(tables.usage_batches).where(*is_new).values(batch=number, written_at=now)
        if not connection.execute(taken).rowcount:
            return  # the first try got through, though nobody could tell
        insert = _insert(connection, tables.usage)
        added = insert.on_conflict_do_update(
            index_elements=["hour", "owner", "model"],
            set_={name: tables.usage.c[name] + insert.excluded[name] for name in COUNTS},
        )
        # in one order, so that two servers can't wait for each other
        rows = [
            {"hour": hour, "owner": owner, "model": model, **asdict(counts)}
            for (hour, owner, model), counts in sorted(batch.items(), key=lambda item: item[0])
        ]
        connection.execute(added, rows)


def _insert(connection: Connection, table: Table) -> Any:
    """An INSERT that can go on where the row is there: both databases have it, and SQLAlchemy has it for each."""
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # takes its time to import

    return postgresql.insert(table)


def _totals(owners: Sequence[str], start: float, end: float, connection: Connection) -> dict[str, Counts]:
    usage = tables.usage.c
    wanted = (
        select(usage.owner, *(func.sum(usage[name]).label(name) for name in COUNTS))
        .where(usage.owner.in_(owners), usage.hour >= int(start) // HOUR_S, usage.hour * HOUR_S < end)
        .group_by(usage.owner)
    )
    return {
        row.owner: Counts(**{name: int(getattr(row, name)) for name in COUNTS}) for row in connection.execute(wanted)
    }


def _read(owner: str, start: float, end: float, connection: Connection) -> list[DayUsage]:
    usage = tables.usage.c
    day = usage.hour // HOURS_A_DAY
    wanted = (
        select(day.label("day"), usage.model, *(func.sum(usage[name]).label(name) for name in COUNTS))
        .where(usage.owner == owner, usage.hour >= int(start) // HOUR_S, usage.hour * HOUR_S < end)
        .group_by(day, usage.model)
        .order_by(day, usage.model)
    )
    return [
        DayUsage(
            datetime.fromtimestamp(row.day * HOURS_A_DAY * HOUR_S, timezone.utc).date().isoformat(),
            row.model,
            Counts(**{name: int(getattr(row, name)) for name in COUNTS}),
        )
        for row in connection.execute(wanted)
    ]
