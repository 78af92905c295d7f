"""The servers that run on this machine for this user, so that another kernel finds them.

One folder, readable by this user only: ``<instance>.json`` says where a server is, ``<instance>.key`` holds its key.
A record whose process is gone is removed when it is seen; files that are no records are left alone. Knows nothing of
threads or HTTP. All methods may be called from any thread and any process.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from pydantic import TypeAdapter

from llmapi_kit.config import Settings
from llmapi_kit.errors import ConfigError

FOLDER = "servers"
# Clocks are adjusted, and programs round the boot time differently
SAME_PROCESS_S = 5.0
# Of another machine with the same home folder: whether its process lives can't be seen from here
FORGET_FOREIGN_AFTER_S = 30 * 86400.0
# What a process killed while it wrote leaves behind
LEFTOVER_AFTER_S = 60.0


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """Where a running server is.

    Attributes:
        instance: what its /healthz answers with.
        url: on this machine.
        port: of the url.
        models: names it answers to.
        public_url: of its tunnel, or None.
        name: of its launch; None for none.
        database: where its keys and usage are, in words without user and password.
        pid: its process.
        process_started: when that process began, so that a recycled pid is not taken for it.
        started_at: Unix time in seconds.
        machine: the host's name; a home folder may be shared by several.
    """

    instance: str
    url: str
    port: int
    models: tuple[str, ...]
    public_url: str | None = None
    name: str | None = None
    database: str = ""
    pid: int = field(default_factory=os.getpid)
    process_started: float = field(default_factory=lambda: psutil.Process().create_time())
    started_at: float = field(default_factory=time.time)
    machine: str = field(default_factory=platform.node)

    def is_alive(self) -> bool:
        """Whether its process still runs, as far as can be seen from this machine."""
        try:
            process = psutil.Process(self.pid)
            is_same = abs(process.create_time() - self.process_started) < SAME_PROCESS_S
            return is_same and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, ValueError, OverflowError):
            return False


_RECORD = TypeAdapter(ServerRecord)


class RunningServers:
    """The records in the state folder. Reading makes no folder and needs none.

    Args:
        settings: whose `home` holds them.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = settings.home / FOLDER

    def add(self, record: ServerRecord, api_key: str | None) -> None:
        """Write a record and its key; a second call replaces the first.

        Raises:
            ConfigError: the state folder can't be written to.
        """
        self._settings.folder(FOLDER)
        if api_key is not None:
            self._write(self.key_file(record), api_key.encode() + b"\n")
        self._write(self._folder / f"{record.instance}.json", _RECORD.dump_json(record, indent=1))

    def remove(self, record: ServerRecord) -> None:
        """Forget a server. Safe to call twice."""
        for path in (self._folder / f"{record.instance}.json", self.key_file(record)):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def running(self) -> list[ServerRecord]:
        """Servers of this machine whose process runs, the newest first."""
        records = []
        for path in self._folder.glob("*.json"):
            try:
                record = _RECORD.validate_json(path.read_bytes())
            except (OSError, ValueError):
                continue  # being removed, or not ours
            if record.instance != path.stem:
                continue
            if record.machine != platform.node():
                if time.time() - record.started_at > FORGET_FOREIGN_AFTER_S:
                    self.remove(record)
            elif record.is_alive():
                records.append(record)
            else:
                self.remove(record)
        self._remove_leftovers()
        return sorted(records, key=lambda record: record.started_at, reverse=True)

    def key_file(self, record: ServerRecord) -> Path:
        """The file that holds the server's key."""
        return self._folder / f"{record.instance}.key"

    def key(self, record: ServerRecord) -> str | None:
        """The server's key; None where it has none."""
        with contextlib.suppress(OSError):
            return self.key_file(record).read_text().strip()
        return None

    def _write(self, path: Path, content: bytes) -> None:
        """Write whole or not at all, for this user's eyes only."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(content)
            temporary.replace(path)
        except OSError as exc:
            raise ConfigError(
                f"The state folder {self._folder} can't be written to: {exc}. Set LLMAPI_KIT_HOME to a folder you can "
                "write to."
            ) from exc

    def _remove_leftovers(self) -> None:
        """Keys without a record, and files half written, of processes that were killed."""
        keys = (path for path in self._folder.glob("*.key") if not path.with_suffix(".json").exists())
        for path in (*keys, *self._folder.glob(".*.json.*"), *self._folder.glob(".*.key.*")):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > LEFTOVER_AFTER_S:
                    path.unlink()
