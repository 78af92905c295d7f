"""The tables of every version become those of this one, once, whoever else opens the database."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import random
import threading
import time

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from llmapi_kit.errors import StoreError, StoreVersionError
from llmapi_kit.store import migrate as migrate_module
from llmapi_kit.store import tables
from llmapi_kit.store.migrate import SCRIPTS, upgrade
from llmapi_kit.store.sessions import SessionStore, Turn

from . import writers
from .conftest import DEADLINE_S, Clock


def migrate(database, revision):
    """What a version of the kit that ended at a revision left."""

    def work(connection):
        config = Config()
        config.set_main_option("script_location", str(SCRIPTS))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    database.run_sync(work)


def revision_of(database):
    return database.run_sync(lambda connection: connection.scalar(text("SELECT version_num FROM llmapi_kit_version")))


def differences(database):
    """Between the database's tables and those that the code means."""

    def work(connection):
        options = {"version_table": tables.version.name, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        found = compare_metadata(context, tables.metadata)
        # Alembic leaves its own table out of what it finds in the database
        return [each for each in found if each != ("add_table", tables.version)]

    return database.run_sync(work)


def test_the_last_migration_is_the_one_the_code_names():
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    assert ScriptDirectory.from_config(config).get_heads() == [tables.REVISION]


def test_an_empty_database_gets_the_tables_the_code_means(open_database, url):
    database = open_database(url)
    assert differences(database) == []
    assert revision_of(database) == tables.REVISION


def test_the_migrations_make_the_same_tables(open_database, url):
    database = open_database(url, with_tables=False)
    migrate(database, "head")
    assert differences(database) == []


def test_a_table_that_the_migrations_forgot_would_be_found(open_database, url):
    database = open_database(url)
    database.run_sync(lambda connection: connection.execute(text("ALTER TABLE llmapi_kit_usage DROP COLUMN images")))
    assert differences(database) != []


def test_an_older_database_is_brought_up_and_keeps_what_is_in_it(open_database, url):
    database = open_database(url, with_tables=False)
    migrate(database, "0001")
    sessions = SessionStore(database, expire_s=100, max_sessions=5, clock=Clock())

    async def write():
        session = await sessions.create("me", "mock", {"a": 1})
        await sessions.append("me", session.id, [Turn("user", "Hello")], expected=0)
        return session

    session = asyncio.run(write())
    assert not database.run_sync(lambda connection: inspect(connection).has_table("llmapi_kit_completions"))
    upgrade(database)
    assert differences(database) == []
    assert revision_of(database) == tables.REVISION
    assert asyncio.run(sessions.get("me", session.id)) == session
    assert asyncio.run(sessions.turns("me", session.id)) == [Turn("user", "Hello")]


def test_a_database_of_a_newer_version_is_refused_by_name_and_not_touched(open_database, url):
    database = open_database(url)
    newer = text("UPDATE llmapi_kit_version SET version_num = '9999'")
    database.run_sync(lambda connection: connection.execute(newer))
    with pytest.raises(StoreVersionError, match=rf"newer version .* at 9999, .* up to {tables.REVISION}"):
        open_database(url)
    assert revision_of(database) == "9999"


def test_a_migration_that_fails_leaves_the_tables_as_they_were(open_database, url, monkeypatch):
    database = open_database(url, with_tables=False)
    migrate(database, "0001")
    in_the_way = text("CREATE TABLE llmapi_kit_completion_labels (n INTEGER)")
    database.run_sync(lambda connection: connection.execute(in_the_way))
    with pytest.raises(StoreError):
        upgrade(database)
    assert revision_of(database) == "0001"
    assert not database.run_sync(lambda connection: inspect(connection).has_table("llmapi_kit_completions"))
    database.run_sync(lambda connection: connection.execute(text("DROP TABLE llmapi_kit_completion_labels")))
    upgrade(database)
    assert revision_of(database) == tables.REVISION


def test_migrating_leaves_logging_alone(open_database, url):
    kept = logging.getLogger("llmapi_kit.test_of_logging")
    before = (logging.root.level, list(logging.root.handlers), kept.disabled, logging.getLogger("alembic").handlers)
    database = open_database(url, with_tables=False)
    migrate(database, "0001")
    upgrade(database)
    after = (logging.root.level, list(logging.root.handlers), kept.disabled, logging.getLogger("alembic").handlers)
    assert after == before


def test_an_up_to_date_database_is_opened_without_alembic(open_database, url, monkeypatch):
    open_database(url)
    monkeypatch.setattr(migrate_module, "_migrate", None)
    open_database(url)


def test_other_programs_tables_in_the_same_database_are_left_alone(open_database, url):
    database = open_database(url, with_tables=False)
    for name in ("sessions", "alembic_version"):
        create = text(f"CREATE TABLE {name} (version_num VARCHAR(32))")
        database.run_sync(lambda connection, create=create: connection.execute(create))
    database.run_sync(lambda connection: connection.execute(text("INSERT INTO alembic_version VALUES ('theirs')")))
    upgrade(database)
    theirs = text("SELECT version_num FROM alembic_version")
    assert database.run_sync(lambda connection: connection.scalar(theirs)) == "theirs"


@pytest.mark.slow
@pytest.mark.parametrize("revision", [None, "0001"])
def test_many_who_open_a_database_at_once_all_find_its_tables(open_database, url, revision):
    if revision is not None:
        migrate(open_database(url, with_tables=False), revision)
    barrier = threading.Barrier(6)
    problems = []

    def open_it():
        barrier.wait(DEADLINE_S)
        try:
            assert revision_of(open_database(url)) == tables.REVISION
        except Exception as exc:
            problems.append(exc)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert problems == []
    assert differences(open_database(url)) == []


@pytest.mark.slow
def test_processes_that_open_an_empty_database_at_once_all_find_its_tables(open_database, url, processes):
    pipes, started = [], []
    for _ in range(4):
        ours, theirs = multiprocessing.Pipe()
        started.append(processes.Process(target=writers.open_and_close, args=(url, theirs)))
        started[-1].start()
        theirs.close()
        pipes.append(ours)
    assert [pipe.recv() for pipe in pipes] == ["ready"] * 4
    for pipe in pipes:
        pipe.send("go")
    assert [pipe.recv() for pipe in pipes] == ["done"] * 4
    for process in started:
        process.join(DEADLINE_S)
    assert [process.exitcode for process in started] == [0] * 4
    assert differences(open_database(url)) == []


@pytest.mark.slow
def test_a_process_killed_while_it_makes_the_tables_leaves_all_or_nothing(open_database, url, processes):
    chance = random.Random(1)
    for _ in range(10):
        ours, theirs = multiprocessing.Pipe()
        process = processes.Process(target=writers.open_and_close, args=(url, theirs))
        process.start()
        assert ours.recv() == "ready"
        ours.send("go")
        time.sleep(chance.random() * 0.03)  # anywhere in it
        process.kill()
        process.join(DEADLINE_S)
        database = open_database(url)
        assert differences(database) == []
        drop = [f"DROP TABLE {table.name}" for table in reversed(tables.metadata.sorted_tables)]
        database.run_sync(lambda connection, drop=drop: [connection.execute(text(each)) for each in drop])
        database.close(DEADLINE_S)
