"""`open_store`: everything that outlives the server, in the database that the settings name."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import TimeoutError as FutureTimeoutError

from llmapi_kit.config import Settings
from llmapi_kit.errors import ConfigError, StoreError
from llmapi_kit.store.completions import CompletionStore
from llmapi_kit.store.database import Database
from llmapi_kit.store.database_url import DatabaseUrl, check_folder, memory_database, parse_database_url, sqlite_file
from llmapi_kit.store.housekeeper import Housekeeper
from llmapi_kit.store.key_counts import KeyCounts
from llmapi_kit.store.keys import KeyStore
from llmapi_kit.store.migrate import upgrade
from llmapi_kit.store.responses import ResponseStore
from llmapi_kit.store.sessions import SessionStore
from llmapi_kit.store.usage import UsageStore

logger = logging.getLogger(__name__)

FOLDER = "store"
FILE = "llmapi_kit.sqlite"
CLOSE_S = 5.0


class Store:
    """What one server keeps. May be used from any thread and event loop.

    Args:
        database: an open one with up-to-date tables; closed with the store.
        settings: limits of what is kept.

    Attributes:
        sessions: conversations.
        usage: counts.
        completions: those that clients asked to store.
        responses: likewise.
        key_counts: what keys with limits use at all servers; None in a database of one machine, whose servers each
            count for themselves.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._lock = threading.Lock()
        self.sessions = SessionStore(database, expire_s=settings.session_expire_s, max_sessions=settings.max_sessions)
        self.completions = CompletionStore(
            database,
            max_completions=settings.max_stored_completions,
            max_bytes=settings.max_stored_bytes,
            expire_s=settings.stored_expire_s,
        )
        self.responses = ResponseStore(
            database,
            max_responses=settings.max_stored_responses,
            max_bytes=settings.max_stored_bytes,
            expire_s=settings.stored_expire_s,
        )
        self.key_counts = KeyCounts(database) if database.place.kind == "postgres" else None
        self.usage = UsageStore(database, on_count=lambda: self._housekeeper.wake())
        self._housekeeper = Housekeeper(self.usage.settle, self._sweep)

    def keys(self, server: str) -> KeyStore:
        """The teammates' keys that are kept under a server's name."""
        return KeyStore(self._database, server)

    @property
    def place(self) -> str:
        """Where it is, without user and password."""
        return str(self._database.place)

    def close(self) -> None:
        """Write what was counted, finish what was begun, and close, in some seconds at most. Safe to call twice."""
        with self._lock:
            deadline = time.monotonic() + CLOSE_S
            self._housekeeper.stop(CLOSE_S)
            try:
                self.usage.settle(max(0.0, deadline - time.monotonic()))
            except (StoreError, FutureTimeoutError) as exc:
                if num := self.usage.num_unwritten:
                    logger.error("The usage of %d requests was not written: %s", num, exc)
            self._database.close(max(0.0, deadline - time.monotonic()))

    def _sweep(self) -> None:
        self._database.run_sync(self.sessions.remove_expired_in)
        self._database.run_sync(self.completions.remove_expired_in)
        self._database.run_sync(self.responses.remove_expired_in)
        if self.key_counts is not None:
            self._database.run_sync(self.key_counts.remove_expired_in)


def open_store(settings: Settings) -> Store:
    """Open the database, make or update its tables, and return what is kept in it.

    Without a `database_url` it is a file in `home`; where that is no place for one, it is memory, with a warning.

    Raises:
        ConfigError: `database_url` is not valid, or no database can be there.
        MissingDependencyError: the driver of Postgres is not installed.
        StoreError: the database can't be used; nothing is left open.
    """
    url = settings.database_url.get_secret_value()
    place = parse_database_url(url) if url else _default_place(settings)
    logger.info("Sessions, usage and stored completions are kept in %s", place)
    database = Database(place, timeout_s=settings.database_timeout_s)
    try:
        upgrade(database)
        return Store(database, settings)
    except BaseException:
        database.close()
        raise


def _default_place(settings: Settings) -> DatabaseUrl:
    """A file in `home`, if a database can live there."""
    try:
        file = settings.folder(FOLDER) / FILE
        check_folder(file)
    except ConfigError as exc:
        logger.warning("%s Until then sessions and usage end with the server.", exc)
        return memory_database()
    return sqlite_file(file)
