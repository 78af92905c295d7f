"""The database: whole transactions, no event loop that waits, clear errors, and working again afterwards."""

from __future__ import annotations

import asyncio
import sqlite3
import threading

import pytest
from sqlalchemy import text

from llmapi_kit.errors import StoreError, StoreUnavailableError
from llmapi_kit.store import connections
from llmapi_kit.store.database import MAX_WAITING, Database
from llmapi_kit.store.database_url import parse_database_url

from .conftest import DEADLINE_S, Held
from .postgres import LOCKED, PASSWORD

# What a Postgres server says when its disk is full
DISK_FULL = "DO $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$"


@pytest.fixture
def numbers(open_database, url):
    """A database with a table of numbers."""
    database = open_database(url, with_tables=False, timeout_s=0.2 if url.startswith("sqlite") else 10)
    database.run_sync(lambda connection: connection.execute(text("CREATE TABLE numbers (n INTEGER PRIMARY KEY)")))
    return database


def add(number):
    return lambda connection: connection.execute(text("INSERT INTO numbers VALUES (:n)"), {"n": number}).rowcount


def all_numbers(connection):
    return list(connection.scalars(text("SELECT n FROM numbers ORDER BY n")))


@pytest.mark.slow
def test_work_that_fails_leaves_nothing_behind(numbers):
    def fail_after_writing(connection):
        add(1)(connection)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        numbers.run_sync(fail_after_writing)
    assert numbers.run_sync(add(2)) == 1
    assert numbers.run_sync(all_numbers, is_read=True) == [2]


def test_what_was_acknowledged_is_seen_by_another_connection_at_once(numbers, open_database, url):
    other = open_database(url, with_tables=False)
    for number in range(20):
        numbers.run_sync(add(number))
        assert other.run_sync(all_numbers, is_read=True) == list(range(number + 1))


def test_the_event_loop_goes_on_while_the_database_is_held_up(numbers):
    order = []

    async def run():
        held = Held()
        holders = [asyncio.create_task(numbers.run(held)) for _ in range(10)]  # more than there are threads
        write = asyncio.create_task(numbers.run(add(1)))
        write.add_done_callback(lambda _: order.append("written"))
        for _ in range(100):
            await asyncio.sleep(0)
        await asyncio.get_running_loop().run_in_executor(None, held.begun.wait, DEADLINE_S)
        order.append("loop")
        held.release()
        await asyncio.gather(write, *holders)

    asyncio.run(run())
    assert order == ["loop", "written"]


def test_work_goes_on_when_nobody_waits_for_it_any_more(numbers, open_database, url):
    async def run():
        held = Held()
        holders = [asyncio.create_task(numbers.run(held)) for _ in range(10)]
        waiting = asyncio.create_task(numbers.run(add(1)))
        await asyncio.get_running_loop().run_in_executor(None, held.begun.wait, DEADLINE_S)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        held.release()
        await asyncio.gather(*holders)

    asyncio.run(run())
    numbers.close(DEADLINE_S)
    assert open_database(url, with_tables=False).run_sync(all_numbers) == [1]


def test_an_event_loop_that_closes_meanwhile_leaves_no_trace(numbers, caplog):
    held = Held()

    async def leave():
        task = asyncio.create_task(numbers.run(lambda connection: (held(connection), add(1)(connection))))
        await asyncio.get_running_loop().run_in_executor(None, held.begun.wait, DEADLINE_S)
        task.cancel()

    asyncio.run(leave())
    held.release()
    assert numbers.run_sync(lambda connection: None) is None
    numbers.close(DEADLINE_S)
    assert caplog.records == []


def test_closing_does_what_was_submitted_and_takes_nothing_more(open_database, url, numbers):
    held = Held()
    futures = [numbers.submit(held) for _ in range(10)]
    futures += [numbers.submit(add(number)) for number in range(50)]
    closer = threading.Thread(target=numbers.close, args=(DEADLINE_S,))
    closer.start()
    held.release()
    closer.join(DEADLINE_S)
    assert all(future.done() and future.exception() is None for future in futures)
    assert numbers.close(DEADLINE_S), "a second time does nothing"
    with pytest.raises(StoreUnavailableError, match="closed"):
        numbers.run_sync(add(100))
    with pytest.raises(StoreUnavailableError, match="closed"):
        asyncio.run(numbers.run(add(100)))
    assert open_database(url, with_tables=False).run_sync(all_numbers) == list(range(50))


def test_closing_does_not_wait_for_ever(open_database, url, caplog):
    database = open_database(url, with_tables=False)
    held = Held()
    future = database.submit(held)
    assert held.begun.wait(DEADLINE_S)
    assert database.close(0) is False
    assert "did not finish" in caplog.text
    held.release()
    assert future.result(DEADLINE_S) is None


def test_too_much_that_waits_is_refused(open_database, url):
    database = open_database(url, with_tables=False)
    held = Held()
    holders = [database.submit(held) for _ in range(4)]
    assert held.begun.wait(DEADLINE_S)
    taken = [database.submit(lambda connection: None) for _ in range(MAX_WAITING - 4)]
    with pytest.raises(StoreUnavailableError, match=f"{MAX_WAITING} requests wait"):
        taken.extend(database.submit(lambda connection: None) for _ in range(10))
    held.release()
    assert {each.result(DEADLINE_S) for each in (*holders, *taken)} == {None}
    assert database.run_sync(lambda connection: 1) == 1


def test_all_work_of_a_sqlite_database_is_done_by_one_thread(open_database, tmp_path):
    database = open_database(f"sqlite:///{tmp_path}/x.sqlite", with_tables=False)
    futures = [database.submit(lambda connection: threading.get_ident()) for _ in range(20)]
    assert len({future.result() for future in futures} - {threading.get_ident()}) == 1


def test_a_sqlite_file_is_durable_checks_its_references_and_is_this_users_only(open_database, tmp_path):
    file = tmp_path / "x.sqlite"
    database = open_database(f"sqlite:///{file}")

    def pragmas(connection):
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]

    assert database.run_sync(pragmas) == ["wal", 2, 1, 10_000]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("x.sqlite*")} == {0o600}
    assert len(list(tmp_path.glob("x.sqlite*"))) == 3
    database.close(DEADLINE_S)
    assert [path.name for path in tmp_path.iterdir()] == ["x.sqlite"], "what was written is in the one file"


def test_a_database_in_memory_keeps_its_rows_and_ends_with_it(open_database):
    databases = [open_database("sqlite://", with_tables=False) for _ in range(2)]
    for database in databases:
        database.run_sync(lambda connection: connection.execute(text("CREATE TABLE numbers (n INTEGER)")))
        database.run_sync(add(7))
        assert database.run_sync(all_numbers) == [7]


def test_a_full_disk_is_said_and_the_next_request_works(numbers):
    def fill(connection):
        add(1)(connection)
        if numbers.place.kind == "postgres":
            connection.exec_driver_sql(DISK_FULL)
        connection.exec_driver_sql("PRAGMA max_page_count=1")  # of the file as it is
        connection.exec_driver_sql("CREATE TABLE large AS SELECT zeroblob(100000)")

    with pytest.raises(StoreUnavailableError, match="has no room left on its disk"):
        numbers.run_sync(fill)
    if numbers.place.kind == "sqlite":
        numbers.run_sync(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count=1000000"))
    numbers.run_sync(add(2))
    assert numbers.run_sync(all_numbers) == [2]


def test_a_sqlite_file_that_another_program_locks_is_said_and_works_again(open_database, tmp_path):
    database = open_database(f"sqlite:///{tmp_path}/x.sqlite", timeout_s=0.1)
    other = sqlite3.connect(tmp_path / "x.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailableError, match=r"x\.sqlite is locked"):
        database.run_sync(lambda connection: None)
    assert database.run_sync(lambda connection: 1, is_read=True) == 1, "reading waits for no writer"
    other.execute("COMMIT")
    other.close()
    assert database.run_sync(lambda connection: 1) == 1


def test_a_new_sqlite_file_that_another_program_writes_to_is_opened_once_that_is_done(
    open_database, tmp_path, monkeypatch
):
    other = sqlite3.connect(tmp_path / "x.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # SQLite does not wait for it by itself where the journal is to be changed
    tried = threading.Event()
    monkeypatch.setattr(connections.time, "sleep", lambda seconds: tried.set())
    opened = []
    opener = threading.Thread(target=lambda: opened.append(open_database(f"sqlite:///{tmp_path}/x.sqlite")))
    opener.start()
    assert tried.wait(DEADLINE_S)
    other.execute("COMMIT")
    opener.join(DEADLINE_S)
    other.close()
    assert opened[0].run_sync(lambda connection: 1) == 1


def test_a_lock_of_postgres_that_another_holds_is_waited_for_or_said(open_database, postgres):
    url = postgres.new_database()
    one, other = (open_database(url, with_tables=False, timeout_s=0.2) for _ in range(2))
    held = Held()
    holder = one.submit(lambda connection: (one.lock(connection, "x"), held(connection)))
    assert held.begun.wait(DEADLINE_S)
    with pytest.raises(StoreUnavailableError, match=r"locked|too slow"):
        other.run_sync(lambda connection: other.lock(connection, "x"))
    other.run_sync(lambda connection: other.lock(connection, "y"))
    held.release()
    holder.result(DEADLINE_S)
    other.run_sync(lambda connection: other.lock(connection, "x"))


@pytest.mark.parametrize(
    "content", [b"This is a letter and no database. " * 100, b"SQLite format 3\x00" + b"\xff" * 9000]
)
def test_a_file_that_is_no_database_is_refused_and_stays_as_it_is(tmp_path, content):
    file = tmp_path / "letter.txt"
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"letter\.txt (is a file of another kind|is damaged|can't be read)"):
        Database(parse_database_url(f"sqlite:///{file}"))
    assert file.read_bytes() == content


@pytest.mark.slow
def test_a_postgres_server_that_restarts_is_found_again(open_database, postgres):
    database = open_database(postgres.new_database(), with_tables=False)
    database.run_sync(lambda connection: connection.execute(text("CREATE TABLE numbers (n INTEGER)")))
    for future in [database.submit(add(number)) for number in range(10)]:  # every connection has been used
        future.result()
    postgres.stop()
    postgres.start()
    for future in [database.submit(add(number)) for number in range(10, 20)]:  # every one of them is dead
        future.result()
    sleeping = database.submit(lambda connection: connection.execute(text("SELECT pg_sleep(30)")))
    postgres.stop()
    try:
        with pytest.raises(StoreUnavailableError, match="can't be reached"):
            sleeping.result(DEADLINE_S)
        with pytest.raises(StoreUnavailableError, match="can't be reached"):
            database.run_sync(add(100))
    finally:
        postgres.start()
    database.run_sync(add(101))
    assert database.run_sync(all_numbers) == [*range(20), 101]


def test_a_statement_that_takes_too_long_is_stopped(open_database, postgres):
    database = open_database(postgres.new_database(), with_tables=False, timeout_s=0.1)
    with pytest.raises(StoreUnavailableError, match="too slow"):
        database.run_sync(lambda connection: connection.execute(text("SELECT pg_sleep(30)")))


def test_a_database_of_postgres_that_is_not_there_is_named(postgres):
    with pytest.raises(StoreUnavailableError, match=r"'nowhere'.*does not exist"):
        Database(parse_database_url(postgres.url("nowhere")))


def test_the_password_opens_and_a_wrong_one_is_refused_without_being_said(postgres, open_database):
    right = postgres.url("postgres", LOCKED, PASSWORD)
    assert open_database(right, with_tables=False).run_sync(lambda connection: 1) == 1
    wrong = "wr0ng/pass@word"
    with pytest.raises(StoreUnavailableError, match="password authentication failed") as caught:
        Database(parse_database_url(postgres.url("postgres", LOCKED, wrong)))
    assert wrong not in everything_said(caught.value)


def test_a_password_that_is_not_in_the_url_is_the_environments(postgres, open_database, monkeypatch):
    """As libpq has it: so it needs no percent-encoding, and deploy/compose.yaml gives it once."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    open_database(postgres.url("postgres", LOCKED), with_tables=False)
    monkeypatch.setenv("PGPASSWORD", "another")
    with pytest.raises(StoreUnavailableError, match="password"):
        open_database(postgres.url("postgres", LOCKED), with_tables=False)


def test_a_password_is_in_no_message_even_if_the_driver_says_it(open_database, postgres):
    database = open_database(postgres.url("postgres", LOCKED, PASSWORD), with_tables=False)
    with pytest.raises(StoreError) as caught:
        database.run_sync(lambda connection: connection.exec_driver_sql(f'SELECT "{PASSWORD}"'))
    assert PASSWORD not in everything_said(caught.value)
    assert PASSWORD not in repr(database.place)


def test_what_was_to_be_written_is_in_no_message(numbers):
    insert = text("INSERT INTO numbers VALUES (:n)")
    with pytest.raises(StoreError) as caught:
        numbers.run_sync(lambda connection: connection.execute(insert, [{"n": 1}, {"n": 1}, {"n": "the prompt"}]))
    assert "the prompt" not in everything_said(caught.value)


def everything_said(exc):
    """The text of an error and of all that led to it and is shown with it."""
    said = ""
    while exc is not None:
        said += f"{exc} {exc!r}"
        exc = exc.__cause__ if exc.__suppress_context__ else exc.__context__
    return said
