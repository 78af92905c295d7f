"""Brings a database's tables up to this version of the kit when it is opened.

An up-to-date or an empty database, the usual ones, need no Alembic, whose import takes longer than all the rest.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, insert, inspect, select, text

from llmapi_kit.errors import StoreVersionError
from llmapi_kit.store import tables
from llmapi_kit.store.database import Database

SCRIPTS = Path(__file__).parent / "migrations"


def upgrade(database: Database) -> None:
    """Make the tables what this version needs. Of several processes at once one does it and the others wait.

    Raises:
        StoreVersionError: the tables are of a newer version.
        StoreError: the database failed; the tables are as they were.
    """
    if database.run_sync(_revision, is_read=True) == tables.REVISION:
        return

    def work(connection: Connection) -> None:
        database.lock(connection, "migrations")
        if database.place.kind == "postgres":
            connection.execute(text("SET LOCAL statement_timeout = 0"))  # large tables take their time
        revision = _revision(connection)  # another process may have been faster
        if revision is None:
            tables.metadata.create_all(connection)
            connection.execute(insert(tables.version), {"version_num": tables.REVISION})
        elif revision != tables.REVISION:
            _migrate(connection, revision, str(database.place))

    database.run_sync(work)


def _revision(connection: Connection) -> str | None:
    """Which of the migrations was the last; None for a database without tables."""
    if not inspect(connection).has_table(tables.version.name):
        return None
    return connection.scalar(select(tables.version.c.version_num))


def _migrate(connection: Connection, revision: str, place: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        ScriptDirectory.from_config(config).get_revision(revision)
    except CommandError as exc:
        raise StoreVersionError(
            f"A newer version of llmapi_kit made {place}: its tables are at {revision}, and this version knows them up "
            f"to {tables.REVISION}. Install the newer version, or set LLMAPI_KIT_DATABASE_URL to another database."
        ) from exc
    command.upgrade(config, tables.REVISION)
