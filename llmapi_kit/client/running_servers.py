"""The servers that run on this machine for this user, so that another kernel finds them.

One folder, readable by this user only: ``<instance>.json`` says where a server is, ``<instance>.key`` holds its key,
and ``<instance>.share`` the public URL that another program has opened for it.
A record whose process is gone is removed when it is seen; files that are not records are left alone. Knows nothing of
threads or HTTP. All methods may be called from any thread and any process.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from dataclasses import dataclass, field, replace
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
        return _is_alive(self.pid, self.process_started)


@dataclass(frozen=True, slots=True)
class SharedUrl:
    """A public URL that another program keeps open for a server.

    Attributes:
        kind: of the tunnel.
        state: of the tunnel; see `llmapi_kit.tunnels.base.TunnelStatus`.
        public_url: of the tunnel, or None.
        reason: what is wrong with it, if anything is.
        pid: the program.
        process_started: when it began.
    """

    kind: str
    state: str
    public_url: str | None = None
    reason: str | None = None
    pid: int = field(default_factory=os.getpid)
    process_started: float = field(default_factory=lambda: psutil.Process().create_time())

    def is_alive(self) -> bool:
        """Whether the program still runs."""
        return _is_alive(self.pid, self.process_started)


def _is_alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < SAME_PROCESS_S and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError, OverflowError):
        return False


_RECORD = TypeAdapter(ServerRecord)
_SHARED = TypeAdapter(SharedUrl)


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
                records.append(self._with_shared_url(record))
            else:
                self.remove(record)
        self._remove_leftovers()
        return sorted(records, key=lambda record: record.started_at, reverse=True)

    def share(self, instance: str, shared: SharedUrl) -> None:
        """Tell a server of this machine by which public URL this program leads to it; a second call replaces the first.

        Raises:
            ConfigError: the state folder can't be written to.
        """
        self._write(self._share_file(instance), _SHARED.dump_json(shared))

    def unshare(self, instance: str) -> None:
        """There is no such URL any more. Safe to call twice."""
        with contextlib.suppress(OSError):
            self._share_file(instance).unlink(missing_ok=True)

    def shared(self, instance: str) -> SharedUrl | None:
        """The public URL that another program keeps open for a server; None where no such program runs."""
        try:
            shared = _SHARED.validate_json(self._share_file(instance).read_bytes())
        except (OSError, ValueError):
            return None
        return shared if shared.is_alive() else None

    def _share_file(self, instance: str) -> Path:
        return self._folder / f"{instance}.share"

    def _with_shared_url(self, record: ServerRecord) -> ServerRecord:
        if record.public_url is not None or (shared := self.shared(record.instance)) is None:
            return record
        return replace(record, public_url=shared.public_url)

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
        owned = (*self._folder.glob("*.key"), *self._folder.glob("*.share"))
        orphans = (path for path in owned if not path.with_suffix(".json").exists())
        drafts = (path for kind in ("json", "key", "share") for path in self._folder.glob(f".*.{kind}.*"))
        for path in (*orphans, *drafts):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > LEFTOVER_AFTER_S:
                    path.unlink()
