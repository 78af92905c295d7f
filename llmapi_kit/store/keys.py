"""Teammates' keys in the database, each server's apart.

A server is a name that several processes may share, so every change counts the server's revision up: who holds the
keys in memory looks at that. Every change is committed when it returns. May be used from any thread and event loop.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, TypeVar

from sqlalchemy import Connection, insert, select, update

from llmapi_kit.did_you_mean import did_you_mean
from llmapi_kit.errors import ConfigError
from llmapi_kit.store import tables
from llmapi_kit.store.database import Database, Work
from llmapi_kit.store.stored_key import KeyLimits, StoredKey

T = TypeVar("T")
columns = tables.keys.c
LIMITS = tuple(KeyLimits.__slots__)


class KeyStore:
    """The keys of one server.

    Args:
        database: an open one.
        server: the name that its keys are kept under.
        clock: the time, as `time.time` tells it.
    """

    def __init__(self, database: Database, server: str, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._server = server
        self._clock = clock

    def revision(self) -> int:
        """A number that every change of a key makes larger.

        Raises:
            StoreError: the database failed.
        """
        return self._database.run_sync(self._revision, is_read=True)

    def all(self) -> tuple[int, list[StoredKey]]:
        """The revision, and every key that there is or was then, the oldest first.

        Raises:
            StoreError: the database failed.
        """

        def work(connection: Connection) -> tuple[int, list[StoredKey]]:
            return self._revision(connection), self._load(connection)

        return self._database.run_sync(work, is_read=True)

    def add(self, key: StoredKey) -> None:
        """Keep a new key, or an invitation to one.

        Raises:
            ConfigError: another key has the name.
            StoreError: the database failed.
        """

        def work(connection: Connection) -> None:
            taken = self._find(connection, key.name)
            if taken is not None:
                what = "an invitation" if taken.digest is None else "a key"
                undo = "withdraw it" if taken.digest is None else "revoke it, or rotate it for a new secret"
                raise ConfigError(f"There is {what} for {key.name!r} already. Choose another name, or {undo}.")
            connection.execute(insert(tables.keys), self._values(key))

        self._change(work)

    def update(self, name: str, **values: Any) -> StoredKey:
        """Change a key that is not revoked, and return it as it is then.

        Args:
            name: of the key.
            values: fields of `StoredKey`.

        Raises:
            ConfigError: there is none of that name, or nobody has it yet and `values` are for one that somebody has.
            StoreError: the database failed.
        """

        def work(connection: Connection) -> StoredKey:
            key = self._find(connection, name)
            if key is None:
                raise self._unknown(connection, name)
            if key.digest is None and "digest" in values:
                raise ConfigError(f"The invitation of {name!r} was not exchanged yet, so there is no key to rotate.")
            changed = replace(key, **values)
            connection.execute(update(tables.keys).where(columns.id == key.id).values(self._values(changed)))
            return changed

        return self._change(work)

    async def exchange(self, code_digest: bytes, digest: bytes, prefix: str) -> StoredKey | None:
        """Make an invitation a key. Of several at once, one gets it.

        Args:
            code_digest: of the invitation's code.
            digest: of the new key.
            prefix: of the new key.

        Returns:
            The key as it is then; as it was, where the invitation is no longer open; None where there never was one.

        Raises:
            StoreError: the database failed.
        """

        def work(connection: Connection) -> StoredKey | None:
            self._database.lock(connection, f"keys of {self._server}")
            found = select(tables.keys).where(columns.server == self._server, columns.code_digest == code_digest)
            row = connection.execute(found).one_or_none()
            if row is None:
                return None
            key = _key(row)
            if key.state(self._clock()) != "invited":
                return key
            key = replace(key, digest=digest, prefix=prefix)
            connection.execute(update(tables.keys).where(columns.id == key.id).values(digest=digest, prefix=prefix))
            self._count(connection)
            return key

        return await self._database.run(work)

    def _change(self, work: Work[T]) -> T:
        """Do work, as a change of the keys, while nobody else changes them."""

        def change(connection: Connection) -> T:
            self._database.lock(connection, f"keys of {self._server}")
            result = work(connection)
            self._count(connection)
            return result

        return self._database.run_sync(change)

    def _count(self, connection: Connection) -> None:
        revision = tables.key_revisions.c
        next_one = update(tables.key_revisions).where(revision.server == self._server)
        if not connection.execute(next_one.values(revision=revision.revision + 1)).rowcount:
            connection.execute(insert(tables.key_revisions), {"server": self._server, "revision": 1})

    def _revision(self, connection: Connection) -> int:
        revision = tables.key_revisions.c
        return connection.scalar(select(revision.revision).where(revision.server == self._server)) or 0

    def _load(self, connection: Connection) -> list[StoredKey]:
        found = select(tables.keys).where(columns.server == self._server).order_by(columns.created_at, columns.id)
        return [_key(row) for row in connection.execute(found)]

    def _find(self, connection: Connection, name: str) -> StoredKey | None:
        """The key of a name that is not revoked, and no invitation that nobody took in time."""
        found = select(tables.keys).where(
            columns.server == self._server, columns.name == name, columns.revoked_at.is_(None)
        )
        now = self._clock()
        keys = [_key(row) for row in connection.execute(found)]
        return next((key for key in keys if key.digest is not None or key.state(now) != "expired"), None)

    def _unknown(self, connection: Connection, name: str) -> ConfigError:
        keys = self._load(connection)
        if any(key.name == name for key in keys):
            return ConfigError(f"The key {name!r} was revoked, or its invitation has expired. Create a new one.")
        names = [key.name for key in keys if key.revoked_at is None]
        there = f"There are: {', '.join(names)}." if names else "There are no keys yet."
        return ConfigError(f"There is no key {name!r}.{did_you_mean(name, names)} {there}")

    def _values(self, key: StoredKey) -> dict[str, Any]:
        values = asdict(key)
        limits = values.pop("limits")
        models = None if key.limits.models is None else json.dumps(key.limits.models)
        return {**values, **limits, "models": models, "server": self._server}


def _key(row: Any) -> StoredKey:
    values = {name: getattr(row, name) for name in StoredKey.__slots__ if name != "limits"}
    limits = {name: getattr(row, name) for name in LIMITS}
    limits["models"] = None if row.models is None else tuple(json.loads(row.models))
    return StoredKey(**values, limits=KeyLimits(**limits))
