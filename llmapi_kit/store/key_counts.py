"""What keys with limits use now, counted for all servers with one Postgres.

Requests and tokens by the minute, and a lease of each request that runs. The database's clock counts, as those of
several machines differ. A lease that its server does not renew expires, so one that dies holds no request of a key for
long. May be used from any thread and event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, delete, func, insert, literal_column, select, update

from llmapi_kit.store import tables
from llmapi_kit.store.database import Database
from llmapi_kit.store.minute_window import WINDOW_S, Window

RefusalT = TypeVar("RefusalT")
LEASE_S = 30.0
minutes, leases = tables.key_minutes.c, tables.key_leases.c
NOW: ColumnElement[float] = literal_column("extract(epoch FROM clock_timestamp())::double precision")


@dataclass(frozen=True, slots=True)
class Use:
    """What one request takes of its key.

    Attributes:
        key_id: of the key.
        lease: names the request, where those that run are counted.
        tokens: that it is taken to use; 0 where none are counted.
    """

    key_id: str
    lease: str | None
    tokens: int


@dataclass(frozen=True, slots=True)
class Used:
    """What a key has used, and runs, at all servers.

    Attributes:
        requests: of the last minute.
        tokens: likewise.
        num_running: requests that run.
        minute: of the clock, since 1970.
    """

    requests: Window
    tokens: Window
    num_running: int
    minute: int

    def with_one(self, use: Use) -> Used:
        """The same and one request more."""
        requests = self.requests._replace(now=self.requests.now + 1)
        tokens = self.tokens._replace(now=self.tokens.now + use.tokens)
        return Used(requests, tokens, self.num_running + (use.lease is not None), self.minute)


@dataclass(frozen=True, slots=True)
class Answer(Generic[RefusalT]):
    """What became of a `Use`.

    Attributes:
        used: with it, if it was taken.
        refusal: why it was not.
    """

    used: Used
    refusal: RefusalT | None


class KeyCounts:
    """Counts what all servers let through.

    Args:
        database: an open Postgres.
        lease_s: how long a request counts as running whose server does not say so again.
    """

    def __init__(self, database: Database, lease_s: float = LEASE_S) -> None:
        self._database = database
        self._lease_s = lease_s

    def take(self, use: Use, check: Callable[[Used], RefusalT | None]) -> Future[Answer[RefusalT]]:
        """Count a request, unless it is refused. Nobody else counts for this key meanwhile.

        Args:
            use: what it takes.
            check: why it is refused, by what was used before; called on another thread.

        Raises:
            StoreError: the database can't be asked; the future's exception is one where it failed.
        """

        def work(connection: Connection) -> Answer[RefusalT]:
            self._database.lock(connection, f"limits of {use.key_id}")
            used = self._used(connection, use.key_id)
            refusal = check(used)
            if refusal is not None:
                return Answer(used, refusal)
            self._add(connection, use.key_id, used.minute, 1, use.tokens)
            if use.lease is not None:
                values = {"id": use.lease, "key_id": use.key_id, "expires_at": NOW + self._lease_s}
                connection.execute(insert(tables.key_leases).values(values))
            return Answer(used.with_one(use), None)

        return self._database.submit(work)

    def settle(self, use: Use, minute: int, tokens: int) -> Future[None]:
        """A request is over, and used so many more tokens than it was taken to, or fewer.

        Raises:
            StoreError: as `take`.
        """

        def work(connection: Connection) -> None:
            if use.lease is not None:
                connection.execute(delete(tables.key_leases).where(leases.id == use.lease))
            if tokens > 0:
                self._add(connection, use.key_id, self._minute(connection), 0, tokens)
            elif tokens < 0:
                its = (minutes.key_id == use.key_id) & (minutes.minute == minute)
                connection.execute(update(tables.key_minutes).where(its).values(tokens=minutes.tokens + tokens))

        return self._database.submit(work)

    def renew_sync(self, names: Sequence[str]) -> None:
        """These requests still run.

        Raises:
            StoreError: the database failed.
        """
        renewed = update(tables.key_leases).where(leases.id.in_(names)).values(expires_at=NOW + self._lease_s)
        self._database.run_sync(lambda connection: connection.execute(renewed) and None)

    def remove_expired_in(self, connection: Connection) -> None:
        """Forget what counts no more."""
        connection.execute(delete(tables.key_leases).where(leases.expires_at < NOW))
        connection.execute(delete(tables.key_minutes).where(minutes.minute < self._minute(connection) - 1))

    def _used(self, connection: Connection, key_id: str) -> Used:
        running = select(func.count()).where(leases.key_id == key_id, leases.expires_at > NOW)
        now, num_running = connection.execute(select(NOW, running.scalar_subquery())).one()
        minute, since_s = divmod(now, WINDOW_S)
        found = select(minutes.minute, minutes.requests, minutes.tokens).where(
            minutes.key_id == key_id, minutes.minute >= minute - 1
        )
        rows = {row.minute: (row.requests, row.tokens) for row in connection.execute(found)}
        before, this = rows.get(minute - 1, (0, 0)), rows.get(minute, (0, 0))
        requests, tokens = (
            Window(num_before, WINDOW_S - since_s, num, 2 * WINDOW_S - since_s)
            for num_before, num in zip(before, this, strict=True)
        )
        return Used(requests, tokens, num_running, int(minute))

    def _minute(self, connection: Connection) -> int:
        return int(connection.execute(select(NOW)).scalar_one() // WINDOW_S)

    def _add(self, connection: Connection, key_id: str, minute: int, requests: int, tokens: int) -> None:
        values = {"key_id": key_id, "minute": minute, "requests": requests, "tokens": tokens}
        added = {"requests": minutes.requests + requests, "tokens": minutes.tokens + tokens}
        from sqlalchemy.dialects import postgresql  # takes its time to import

        statement = postgresql.insert(tables.key_minutes).values(values)
        connection.execute(statement.on_conflict_do_update(index_elements=["key_id", "minute"], set_=added))
