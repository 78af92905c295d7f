"""SQLAlchemy's engines as the store needs them: what each connection is told before it is used.

Knows no tables. Who uses an engine sees to it that a SQLite connection is used by one thread at a time.
"""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, StaticPool, create_engine, event

from llmapi_kit.errors import ConfigError, MissingDependencyError
from llmapi_kit.store.database_url import DatabaseUrl, check_folder

READS = "llmapi_kit_reads"
"""Execution option of a connection that only reads."""


def sqlite_engine(place: DatabaseUrl, timeout_s: float) -> Engine:
    """An engine with one connection, whose commits are on the disk when they return.

    Raises:
        ConfigError: there can be no database at that place.
    """
    if place.file is not None:
        check_folder(place.file)
        _make_private(place.file)
    engine = create_engine(
        place.url,
        poolclass=StaticPool,
        connect_args={"check_same_thread": False, "timeout": timeout_s},
        hide_parameters=True,
    )

    def prepare(connection: sqlite3.Connection, record: object) -> None:
        connection.isolation_level = None  # sqlite3 begins nothing by itself; see `begin`
        if place.file is not None:
            _use_write_ahead_log(connection, timeout_s)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    def begin(connection: Connection) -> None:
        # A transaction that reads before it writes would fail where another process wrote in between
        is_read = connection.get_execution_options().get(READS)
        connection.exec_driver_sql("BEGIN" if is_read else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", begin)
    return engine


def postgres_engine(place: DatabaseUrl, timeout_s: float, num_connections: int) -> Engine:
    """An engine whose connections are tried before they are used, so that a server may restart.

    Raises:
        MissingDependencyError: psycopg is not installed.
    """
    try:
        import psycopg  # noqa: F401 - SQLAlchemy imports it by name
    except ImportError as exc:
        raise MissingDependencyError("psycopg", "postgres", "A Postgres database") from exc
    milliseconds = round(timeout_s * 1000)
    given = place.url.query.get("options", "")
    limits = f"{given} -c statement_timeout={milliseconds} -c lock_timeout={milliseconds}"
    options: dict[str, Any] = {
        "application_name": "llmapi_kit",
        "connect_timeout": max(2, round(timeout_s)),
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
        **{name: value for name, value in place.url.query.items() if name != "options"},
        "options": limits.strip(),
    }
    return create_engine(
        place.url.set(query={}),
        connect_args=options,
        pool_size=num_connections,
        max_overflow=0,
        pool_pre_ping=True,
        hide_parameters=True,
    )


def _make_private(file: Path) -> None:
    """Make the file, if it is missing, for this user's eyes only; its log gets the same rights.

    Raises:
        ConfigError: it can't be made.
    """
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as exc:
        raise ConfigError(
            f"The database {file} can't be written to: {exc.strerror}. Set LLMAPI_KIT_DATABASE_URL to another place."
        ) from exc


def _use_write_ahead_log(connection: sqlite3.Connection, timeout_s: float) -> None:
    """SQLite does not wait for others here by itself, as it does elsewhere."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as exc:
            if "locked" not in str(exc) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
