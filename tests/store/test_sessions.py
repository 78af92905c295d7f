"""Sessions: what is written is there, for its owner, in its order, until it ends or expires."""

from __future__ import annotations

import asyncio
import re

import pytest

from llmapi_kit.errors import SessionConflictError, SessionGoneError, SessionLimitError
from llmapi_kit.store.sessions import SessionStore, Turn

from .conftest import DEADLINE_S, Clock, Held

HELLO = Turn("user", "Hello", 2)
HI = Turn("assistant", "Hi", 1)


@pytest.fixture
def reopened(open_database, url):
    """The sessions as another process finds them."""
    return SessionStore(open_database(url), expire_s=100, max_sessions=5, clock=Clock())


def test_a_session_and_its_turns_are_found_by_who_opens_the_database_later(sessions, reopened):
    async def write():
        session = await sessions.create("me", "chatgpt", {"system": "Be brief.", "temperature": 0.5, "stop": ["\n"]})
        await sessions.append("me", session.id, [HELLO, HI], expected=0)
        await sessions.append("me", session.id, [Turn("user", "Bye")], expected=2)
        return session

    async def read():
        return await reopened.get("me", session.id), await reopened.turns("me", session.id)

    session = asyncio.run(write())
    assert asyncio.run(read()) == (session, [HELLO, HI, Turn("user", "Bye", 0)])
    assert session.settings == {"system": "Be brief.", "temperature": 0.5, "stop": ["\n"]}
    assert session.created_at == session.used_at == Clock().now


def test_ids_are_32_random_hexadecimal_digits(sessions):
    async def make():
        return [(await sessions.create("me", "mock", {})).id for _ in range(5)]

    made = asyncio.run(make())
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in made)
    assert len({each[:8] for each in made}) == len({each[-8:] for each in made}) == 5


def test_text_of_every_kind_comes_back_as_it_was(sessions, reopened):
    text = "quote ' \" \\ \n \r 中文 🦙 \x00 \ud800 %s :name"

    async def write():
        session = await sessions.create("me", text, {text: text})
        await sessions.append("me", session.id, [Turn("user", text), Turn("assistant", "")], expected=0)
        return await reopened.get("me", session.id), await reopened.turns("me", session.id)

    session, turns = asyncio.run(write())
    assert (session.bot_type, session.settings) == (text, {text: text})
    assert [turn.content for turn in turns] == [text, ""]


def test_another_owner_sees_nothing_and_changes_nothing(sessions):
    async def run():
        session = await sessions.create("me", "mock", {})
        await sessions.append("me", session.id, [HELLO], expected=0)
        assert await sessions.get("you", session.id) is None
        assert await sessions.turns("you", session.id) == []
        assert await sessions.end("you", session.id) is False
        with pytest.raises(SessionGoneError):
            await sessions.append("you", session.id, [HI], expected=1)
        assert await sessions.turns("me", session.id) == [HELLO]

    asyncio.run(run())


@pytest.mark.parametrize(
    "session_id", ["", "0" * 32, "G" * 32, "0" * 33, "\x00" * 32, "\ud800", "' OR 1=1 --", "é" * 32]
)
def test_an_id_that_is_none_is_not_there(sessions, session_id):
    async def run():
        assert await sessions.get("me", session_id) is None
        assert await sessions.turns("me", session_id) == []
        assert await sessions.end("me", session_id) is False
        with pytest.raises(SessionGoneError):
            await sessions.append("me", session_id, [HELLO], expected=0)

    asyncio.run(run())


@pytest.mark.parametrize("expected", [0, 1, 3])
def test_turns_that_do_not_follow_those_that_are_there_are_refused_whole(sessions, expected):
    async def run():
        session = await sessions.create("me", "mock", {})
        await sessions.append("me", session.id, [HELLO, HI], expected=0)
        with pytest.raises(SessionConflictError, match=f"has 2 turns and not {expected}"):
            await sessions.append("me", session.id, [HI, HELLO], expected=expected)
        assert await sessions.turns("me", session.id) == [HELLO, HI]

    asyncio.run(run())


def test_of_many_who_write_at_once_one_gets_through(sessions):
    async def run():
        session = await sessions.create("me", "mock", {})
        writes = [sessions.append("me", session.id, [Turn("user", str(i))], expected=0) for i in range(20)]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert [outcome for outcome in outcomes if not isinstance(outcome, SessionConflictError)] == [None]
        [turn] = await sessions.turns("me", session.id)
        assert turn.content == str(outcomes.index(None))

    asyncio.run(run())


def test_an_ended_session_is_gone_with_its_turns_and_one_of_many_ended_it(sessions, database):
    async def run():
        session = await sessions.create("me", "mock", {})
        await sessions.append("me", session.id, [HELLO, HI], expected=0)
        ended = await asyncio.gather(*(sessions.end("me", session.id) for _ in range(10)))
        assert sorted(ended) == [False] * 9 + [True]
        assert await sessions.get("me", session.id) is None
        with pytest.raises(SessionGoneError):
            await sessions.append("me", session.id, [HELLO], expected=2)

    asyncio.run(run())
    assert num_rows(database, "llmapi_kit_turns") == 0


def test_a_session_expires_unless_it_is_used(sessions, database):
    clock = sessions._clock

    async def run():
        used = await sessions.create("me", "mock", {})
        unused = await sessions.create("me", "mock", {})
        await sessions.append("me", unused.id, [HELLO, HI], expected=0)
        clock.now += 60
        await sessions.append("me", used.id, [HELLO], expected=0)
        clock.now += 60
        assert (await sessions.get("me", used.id)).used_at == clock.now - 60
        assert await sessions.get("me", unused.id) is None
        assert await sessions.turns("me", unused.id) == []
        assert await sessions.end("me", unused.id) is False
        with pytest.raises(SessionGoneError, match="expired"):
            await sessions.append("me", unused.id, [HELLO], expected=2)
        assert await sessions.remove_expired() == 1
        assert await sessions.remove_expired() == 0
        assert await sessions.turns("me", used.id) == [HELLO]

    asyncio.run(run())
    assert num_rows(database, "llmapi_kit_sessions") == 1
    assert num_rows(database, "llmapi_kit_turns") == 1


def test_an_owner_has_as_many_sessions_as_allowed_and_gets_room_by_ending_or_expiring(sessions):
    async def run():
        made = [await sessions.create("me", "mock", {}) for _ in range(5)]
        with pytest.raises(SessionLimitError, match=r"5 sessions.*max_sessions"):
            await sessions.create("me", "mock", {})
        await sessions.create("you", "mock", {})
        await sessions.end("me", made[0].id)
        await sessions.create("me", "mock", {})
        sessions._clock.now += 101
        await sessions.create("me", "mock", {})

    asyncio.run(run())


def test_many_who_begin_at_once_get_no_more_sessions_than_allowed(sessions, reopened):
    async def run():
        begin = [where.create("me", "mock", {}) for where in (sessions, reopened) for _ in range(10)]
        outcomes = await asyncio.gather(*begin, return_exceptions=True)
        assert sum(isinstance(outcome, SessionLimitError) for outcome in outcomes) == 15
        assert len({outcome.id for outcome in outcomes if not isinstance(outcome, SessionLimitError)}) == 5

    asyncio.run(run())


def test_two_who_begin_in_one_postgres_do_it_one_after_the_other(open_database, postgres):
    url = postgres.new_database()
    database, other = open_database(url), open_database(url)
    sessions = SessionStore(database, expire_s=100, max_sessions=5)
    held = Held()
    holder = other.submit(lambda connection: (other.lock(connection, "sessions of me"), held(connection)))
    assert held.begun.wait(DEADLINE_S)

    async def run():
        mine = asyncio.create_task(sessions.create("me", "mock", {}))
        for _ in range(3):
            await sessions.create("you", "mock", {})  # time enough for mine, if it did not wait
        assert not mine.done()
        held.release()
        assert (await mine).owner == "me"

    asyncio.run(run())
    holder.result(DEADLINE_S)


def test_adding_no_turns_only_keeps_the_session_alive(sessions):
    async def run():
        session = await sessions.create("me", "mock", {})
        sessions._clock.now += 99
        await sessions.append("me", session.id, [], expected=0)
        sessions._clock.now += 99
        assert await sessions.get("me", session.id) is not None

    asyncio.run(run())


def num_rows(database, table):
    return database.run_sync(lambda connection: connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar())
