"""The keys of a server that runs in another process of this machine, changed through the database that both share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from llmapi_kit.api.auth import KeyCheck
from llmapi_kit.client.running_servers import RunningServers, ServerRecord
from llmapi_kit.config import Settings
from llmapi_kit.did_you_mean import did_you_mean
from llmapi_kit.errors import ConfigError, ServerNotFoundError
from llmapi_kit.server.keys import Keys, scope_of
from llmapi_kit.store.store import open_store


@contextlib.contextmanager
def keys_elsewhere(settings: Settings, name: str | None = None) -> Iterator[Keys]:
    """The keys of a running server, for the length of a block; it knows of a change within a second.

    Args:
        settings: which state folder and database to look into.
        name: of its launch; None for the newest server.

    Raises:
        ServerNotFoundError: none runs, or none of that name.
        ConfigError: it asks for no key, or keeps its keys in another database than the settings say.
        StoreError: the database failed.
    """
    registry = RunningServers(settings)
    record = _find(registry.running(), name)
    key = registry.key(record)
    if key is None:
        raise ConfigError(f"The server at {record.url} asks for no key, so nobody needs one.")
    store = open_store(settings)
    try:
        if record.database != store.place or record.database == "the database in memory":
            raise ConfigError(
                f"The server at {record.url} keeps its keys in {record.database or 'no database'}, which is not "
                f"{store.place}. Set LLMAPI_KIT_DATABASE_URL as it has it, or change its keys in its notebook."
            )
        yield Keys(
            store,
            scope_of(record.name, record.instance),
            models=lambda: record.models,
            base_url=lambda: f"{record.public_url or record.url}/v1",
            page_url=lambda: record.public_url or record.url,
            owner_id=lambda: KeyCheck(key).owner.id,
        )
    finally:
        store.close()


def _find(running: list[ServerRecord], name: str | None) -> ServerRecord:
    if not running:
        raise ServerNotFoundError("No server runs on this machine. Launch one first.")
    found = running[0] if name is None else next((record for record in running if record.name == name), None)
    if found is None:
        names = [record.name or record.url for record in running]
        raise ServerNotFoundError(
            f"No running server has the name {name!r}.{did_you_mean(name or '', names)} There are: {', '.join(names)}."
        )
    return found
