"""`Database`: work in transactions, on threads of its own.

No event loop ever waits for the disk or the network; whoever waits for work knows, when it returns, that it is
committed. Knows no tables. May be used from any thread and any number of event loops.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from llmapi_kit.errors import StoreUnavailableError
from llmapi_kit.store.connections import READS, postgres_engine, sqlite_engine
from llmapi_kit.store.database_errors import cause, store_error
from llmapi_kit.store.database_url import DatabaseUrl
from llmapi_kit.store.workers import Workers

logger = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[Connection], T]

POSTGRES_WORKERS = 4
# More than that is a database that does not answer; every request that comes would only wait longer
MAX_WAITING = 1000


class Database:
    """An open database. All work of a SQLite database runs on one thread, and writes take its lock at once.

    Args:
        place: where it is.
        timeout_s: how long a statement may wait for another program's lock, and, in Postgres, take.

    Raises:
        MissingDependencyError: the driver of Postgres is not installed.
        StoreError: it can't be opened.
    """

    def __init__(self, place: DatabaseUrl, *, timeout_s: float = 10.0) -> None:
        self.place = place
        if place.kind == "sqlite":
            self._engine = sqlite_engine(place, timeout_s)
            num_workers = 1
        else:
            self._engine = postgres_engine(place, timeout_s, POSTGRES_WORKERS)
            num_workers = POSTGRES_WORKERS
        self._workers = Workers(num_workers, "llmapi_kit database")
        try:
            self.run_sync(lambda connection: connection.execute(text("SELECT 1")), is_read=True)
        except BaseException:
            self.close()
            raise

    async def run(self, work: Work[T], *, is_read: bool = False) -> T:
        """Do work in a transaction; returns what it returned, once that is committed.

        Whoever stops waiting does not stop the work.

        Args:
            work: is given a connection, on another thread; must not keep it.
            is_read: it changes nothing, and waits for no other writer.

        Raises:
            StoreUnavailableError: the database does not answer now.
            StoreError: it failed otherwise. Nothing of the work was done.
        """
        return await settled(self.submit(work, is_read=is_read))

    def run_sync(self, work: Work[T], *, is_read: bool = False) -> T:
        """`run`, for threads without an event loop; not from within work."""
        return self.submit(work, is_read=is_read).result()

    def submit(self, work: Work[T], *, is_read: bool = False) -> Future[T]:
        """Have work done in a transaction; the future is done when it is committed.

        Raises:
            StoreUnavailableError: the database is closed, or too much is waiting for it.
        """
        if self._workers.num_waiting >= MAX_WAITING:
            raise StoreUnavailableError(f"{self._name} is too slow: {MAX_WAITING} requests wait for it.")
        future = self._workers.submit(partial(self._transact, work, is_read))
        if future is None:
            raise StoreUnavailableError(f"{self._name} is closed: its server was stopped.")
        return future

    def lock(self, connection: Connection, name: str) -> None:
        """Let nobody else hold the lock of that name until the transaction ends; for writes.

        SQLite has one writer, which is as good.
        """
        if self.place.kind == "postgres":
            digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            number = int.from_bytes(digest, "big", signed=True)
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})

    def close(self, timeout_s: float = 5.0) -> bool:
        """Do what was submitted, then close. Safe to call twice.

        Returns:
            Whether all was done in time; what was not may still be.
        """
        has_ended = self._workers.close(timeout_s)
        if has_ended:
            self._engine.dispose()
        else:
            logger.warning("%s did not finish within %g s and is left behind", self._name, timeout_s)
        return has_ended

    @property
    def _name(self) -> str:
        name = str(self.place)
        return name[0].upper() + name[1:]

    def _transact(self, work: Work[T], is_read: bool) -> T:
        try:
            with self._engine.connect().execution_options(**{READS: is_read}) as connection:
                with connection.begin():
                    return work(connection)
        except SQLAlchemyError as exc:
            raise store_error(exc, self.place) from cause(exc, self.place)


async def settled(future: Future[T]) -> T:
    """Wait for another thread's future; cancelling that does not touch it, unlike `asyncio.wrap_future`."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[T] = loop.create_future()
    future.add_done_callback(partial(_tell, loop, waiter))
    return await waiter


def _tell(loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[T], future: Future[T]) -> None:
    """Wake who waits, on its event loop, which may be closed by now."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(_settle, waiter, future)


def _settle(waiter: asyncio.Future[T], future: Future[T]) -> None:
    exc = future.exception()
    if waiter.done():
        if exc is not None:
            logger.warning("Work whose caller had left failed: %s", exc)
    elif exc is not None:
        waiter.set_exception(exc)
    else:
        waiter.set_result(future.result())
