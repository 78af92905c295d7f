"""Sessions and their turns: whose they are, what was said, when they expire.

Every change is committed when it returns. What belongs to another owner is not there. May be used from any event loop.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from llmapi_kit.errors import SessionConflictError, SessionGoneError, SessionLimitError
from llmapi_kit.store import tables
from llmapi_kit.store.database import Database

ID = re.compile(r"[0-9a-f]{32}")
sessions = tables.sessions.c
Role = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session as it was when it was read.

    Attributes:
        id: 32 hexadecimal digits that nobody can guess.
        owner: the id of the key that may use it.
        bot_type: who answers in it.
        settings: of the bot, as JSON knows them.
        created_at: Unix time in seconds.
        used_at: when it was made or a turn was added last, Unix time in seconds.
    """

    id: str
    owner: str
    bot_type: str
    settings: Mapping[str, Any]
    created_at: float
    used_at: float


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said; its place follows from the order.

    Attributes:
        role: who said it.
        content: what.
        num_tokens: what it takes of a context; 0 where nobody counted.
    """

    role: Role
    content: str
    num_tokens: int = 0


class SessionStore:
    """The sessions of a database.

    Args:
        database: an open one.
        expire_s: how long a session lives without a new turn.
        max_sessions: how many one owner may have.
        clock: the time, as `time.time` tells it.
    """

    def __init__(
        self, database: Database, *, expire_s: float, max_sessions: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._expire_s = expire_s
        self._max_sessions = max_sessions
        self._clock = clock

    async def create(self, owner: str, bot_type: str, settings: Mapping[str, Any]) -> StoredSession:
        """Begin a session.

        Raises:
            SessionLimitError: the owner has as many as allowed.
            StoreError: the database failed.
        """
        now = self._clock()
        session = StoredSession(secrets.token_hex(16), owner, bot_type, dict(settings), now, now)
        values = {
            "id": session.id,
            "owner": owner,
            "bot_type": bot_type,
            "settings": json.dumps(session.settings),
            "created_at": now,
            "used_at": now,
            "num_turns": 0,
        }

        def work(connection: Connection) -> int:
            # Two requests at once would both count and then both add, where the database has several writers
            self._database.lock(connection, f"sessions of {owner}")
            living = select(func.count()).where(sessions.owner == owner, sessions.used_at > now - self._expire_s)
            num = connection.scalar(living) or 0
            if num < self._max_sessions:
                connection.execute(insert(tables.sessions), values)
            return num

        if await self._database.run(work) >= self._max_sessions:
            raise SessionLimitError(
                f"This key has {self._max_sessions} sessions, as many as the server allows (setting max_sessions). End "
                "one first."
            )
        return session

    async def get(self, owner: str, session_id: str) -> StoredSession | None:
        """A session; None where it is not there, belongs to another owner, was ended or has expired.

        Raises:
            StoreError: the database failed.
        """
        if not ID.fullmatch(session_id):
            return None
        found = select(tables.sessions).where(*self._living(owner, session_id))
        row = await self._database.run(lambda connection: connection.execute(found).one_or_none(), is_read=True)
        if row is None:
            return None
        settings = json.loads(row.settings)
        return StoredSession(row.id, row.owner, row.bot_type, settings, row.created_at, row.used_at)

    async def turns(self, owner: str, session_id: str) -> list[Turn]:
        """What was said, the oldest first; nothing where `get` gives None.

        Raises:
            StoreError: the database failed.
        """
        if not ID.fullmatch(session_id):
            return []
        said = (
            select(tables.turns.c.role, tables.turns.c.content, tables.turns.c.num_tokens)
            .join(tables.sessions)
            .where(*self._living(owner, session_id))
            .order_by(tables.turns.c.position)
        )
        rows = await self._database.run(lambda connection: connection.execute(said).all(), is_read=True)
        return [Turn(cast(Role, row.role), row.content, row.num_tokens) for row in rows]

    async def append(self, owner: str, session_id: str, turns: Sequence[Turn], *, expected: int) -> None:
        """Add turns after those that are there, all or none; the session's time begins anew.

        Args:
            owner: whose session.
            session_id: which.
            turns: what was said.
            expected: how many turns the caller knows of.

        Raises:
            SessionConflictError: there are not as many turns as expected, because another wrote meanwhile.
            SessionGoneError: the session was ended, has expired, or never was.
            StoreError: the database failed.
        """
        if not ID.fullmatch(session_id):
            raise _gone(session_id)
        living = self._living(owner, session_id)
        touch = (
            update(tables.sessions)
            .where(*living, sessions.num_turns == expected)
            .values(num_turns=expected + len(turns), used_at=self._clock())
        )
        rows = [
            {
                "session_id": session_id,
                "position": expected + index,
                "role": turn.role,
                "content": turn.content,
                "num_tokens": turn.num_tokens,
            }
            for index, turn in enumerate(turns)
        ]

        def work(connection: Connection) -> int | None:
            if not connection.execute(touch).rowcount:
                return connection.scalar(select(sessions.num_turns).where(*living))
            if rows:
                connection.execute(insert(tables.turns), rows)
            return expected

        num = await self._database.run(work)
        if num is None:
            raise _gone(session_id)
        if num != expected:
            raise SessionConflictError(
                f"The session {session_id} has {num} turns and not {expected}: another request wrote to it meanwhile."
            )

    async def end(self, owner: str, session_id: str) -> bool:
        """Forget a session and its turns; False where it was not there. Of several at once, one gets True.

        Raises:
            StoreError: the database failed.
        """
        if not ID.fullmatch(session_id):
            return False
        gone = delete(tables.sessions).where(*self._living(owner, session_id))
        return await self._database.run(lambda connection: connection.execute(gone).rowcount) == 1

    async def remove_expired(self) -> int:
        """Forget every owner's sessions that have expired; returns how many.

        Raises:
            StoreError: the database failed.
        """
        return await self._database.run(self.remove_expired_in)

    def remove_expired_in(self, connection: Connection) -> int:
        """`remove_expired` as work for `Database.run`."""
        expired = sessions.used_at <= self._clock() - self._expire_s
        return connection.execute(delete(tables.sessions).where(expired)).rowcount

    def _living(self, owner: str, session_id: str) -> tuple[ColumnElement[bool], ...]:
        """The conditions of a session that can be used."""
        has_time = sessions.used_at > self._clock() - self._expire_s
        return sessions.id == session_id, sessions.owner == owner, has_time


def _gone(session_id: str) -> SessionGoneError:
    return SessionGoneError(f"There is no session {session_id[:80]!r}: it was ended, or it has expired.")
