"""Databases for the tests: a SQLite file and a real Postgres, each test with one of its own."""

from __future__ import annotations

import multiprocessing
import threading

import pytest

from llmapi_kit.config import load_settings
from llmapi_kit.store.database import Database
from llmapi_kit.store.database_url import parse_database_url
from llmapi_kit.store.migrate import upgrade
from llmapi_kit.store.sessions import SessionStore
from llmapi_kit.store.store import open_store
from tests.api.conftest import http, serve  # noqa: F401 - fixtures

from .postgres import Postgres

DEADLINE_S = 60


@pytest.fixture(scope="session")
def postgres():
    """The server that all tests share."""
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    """The URL of an empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.sqlite"
    return request.getfixturevalue("postgres").new_database()


@pytest.fixture
def open_database():
    """Opens databases; all are closed at the end."""
    opened = []

    def open_one(url, *, with_tables=True, **options):
        database = Database(parse_database_url(url), **options)
        opened.append(database)
        if with_tables:
            upgrade(database)
        return database

    yield open_one
    for database in opened:
        assert database.close(DEADLINE_S), "a database did not finish its work"


@pytest.fixture
def database(open_database, url):
    """An open database with its tables."""
    return open_database(url)


@pytest.fixture
def sessions(database):
    """Its sessions."""
    return SessionStore(database, expire_s=100, max_sessions=5, clock=Clock())


@pytest.fixture
def open_stores():
    """Opens whole stores; all are closed at the end."""
    opened = []

    def open_one(url, **settings):
        opened.append(open_store(load_settings(database_url=url, **settings)))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


class Clock:
    """A clock that stands until it is told to go on."""

    def __init__(self, now=1_700_000_000.0):
        self.now = now

    def __call__(self):
        return self.now


class Held:
    """Work that holds up the thread it is done on."""

    def __init__(self):
        self._released = threading.Event()
        self.begun = threading.Event()

    def __call__(self, connection):
        self.begun.set()
        assert self._released.wait(DEADLINE_S), "nobody let it go on"

    def release(self):
        self._released.set()


@pytest.fixture(scope="session")
def processes():
    """Starts processes that have everything imported, so that killing many of them takes no time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.store.writers", "alembic.command", "psycopg"])
    return context
