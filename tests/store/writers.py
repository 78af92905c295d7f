"""What other processes do to a database: they say what was acknowledged, and are killed at any moment."""

from __future__ import annotations

import asyncio
import itertools
from multiprocessing.connection import Connection

from llmapi_kit.errors import SessionConflictError
from llmapi_kit.store.database import Database
from llmapi_kit.store.database_url import parse_database_url
from llmapi_kit.store.migrate import upgrade
from llmapi_kit.store.responses import ResponseStore
from llmapi_kit.store.sessions import SessionStore, Turn
from llmapi_kit.store.stored_response import StoredResponse

NUM_SESSIONS = 3


def open_sessions(url: str) -> tuple[Database, SessionStore]:
    database = Database(parse_database_url(url))
    upgrade(database)
    return database, SessionStore(database, expire_s=3600, max_sessions=1000)


def write_until_killed(url: str, acknowledged: Connection) -> None:
    """Write turns to some sessions at once; send (session, number of turns) after each that was acknowledged."""

    async def write(sessions: SessionStore) -> None:
        session = await sessions.create("owner", "mock", {})
        acknowledged.send((session.id, 0))
        num = 0
        while True:
            turns = [Turn("user", said(num)), Turn("assistant", said(num + 1))]
            await sessions.append("owner", session.id, turns, expected=num)
            num += 2
            acknowledged.send((session.id, num))

    async def write_all() -> None:
        _, sessions = open_sessions(url)
        await asyncio.gather(*(write(sessions) for _ in range(NUM_SESSIONS)))

    asyncio.run(write_all())


def store_until_killed(url: str, seed: int, acknowledged: Connection) -> None:
    """Store responses; send the id of each after it was acknowledged."""

    async def run() -> None:
        database = Database(parse_database_url(url))
        upgrade(database)
        responses = ResponseStore(database, max_responses=100_000, max_bytes=1_000_000_000, expire_s=3600)
        for number in itertools.count():
            response_id = f"resp_{seed:012x}{number:012x}"
            await responses.add(StoredResponse(response_id, "owner", body_of(response_id), b"[]"))
            acknowledged.send(response_id)

    asyncio.run(run())


def body_of(response_id: str) -> bytes:
    """What stands in a response: large enough to take several pages."""
    return f'{{"id":"{response_id}"}}'.encode() * 200


def said(position: int) -> str:
    """What stands at a position: large enough to take several pages."""
    return f"{position} " * 500


def open_and_close(url: str, begun: Connection) -> None:
    """Open an empty database, as many others may at the same moment."""
    begun.send("ready")
    begun.recv()
    database, _ = open_sessions(url)
    database.close()
    begun.send("done")


def race(url: str, session_id: str, name: str, num: int, told: Connection) -> None:
    """Append turns to a session that others append to as well, and make sessions of one's own."""

    async def run() -> None:
        database, sessions = open_sessions(url)
        for index in range(num):
            await sessions.create(name, "mock", {"index": index})
            while True:
                expected = len(await sessions.turns("owner", session_id))
                try:
                    await sessions.append("owner", session_id, [Turn("user", f"{name} {index}")], expected=expected)
                    break
                except SessionConflictError:
                    pass  # another was faster
        database.close()

    told.send("ready")
    told.recv()
    asyncio.run(run())
    told.send("done")
