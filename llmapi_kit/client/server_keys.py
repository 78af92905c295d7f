"""The keys that servers of this machine are given, by the server's name: a key stays the same until it is rotated.

One file for each name in a folder that only this user can read. Keys that the user chose are not written here. May be
called from any thread and any process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from llmapi_kit.config import Settings
from llmapi_kit.errors import ConfigError

FOLDER = "keys"
MAX_NAME = 100


class ServerKeys:
    """The keys in the state folder.

    Args:
        settings: whose `home` holds them.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def key(self, name: str, make: Callable[[], str]) -> str:
        """The key of the server of this name; made and kept where there is none.

        Args:
            name: of the server.
            make: a new key.

        Raises:
            ConfigError: the state folder can't be written to.
        """
        path = self._path(name)
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if key := path.read_text(encoding="utf-8").strip():
                path.chmod(0o600)
                return key
        return self.replace(name, make())

    def replace(self, name: str, key: str) -> str:
        """Keep another key for the server of this name, and return it.

        Raises:
            ConfigError: the state folder can't be written to.
        """
        self._settings.folder(FOLDER)
        path = self._path(name)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                file.write(f"{key}\n")
            temporary.replace(path)
        except OSError as exc:
            raise ConfigError(
                f"The key of the server {name!r} can't be kept in {path.parent}: {exc}. Set LLMAPI_KIT_HOME to a "
                "folder you can write to."
            ) from exc
        return key

    def _path(self, name: str) -> Path:
        """A file name that no name leads out of the folder with, and no two names share."""
        written = quote(name, safe="").replace(".", "%2E")
        if len(written) > MAX_NAME:
            written = hashlib.sha256(name.encode()).hexdigest()
        return self._settings.home / FOLDER / f"{written}.key"
