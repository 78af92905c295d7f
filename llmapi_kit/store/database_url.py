"""Where the database is: what the setting `database_url` means, and whether a database can live there.

Knows nothing of SQLAlchemy's engines; no address that leaves this module as text has a password in it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from llmapi_kit.errors import ConfigError

ALLOWED = "It takes sqlite:///path/to/file.db or postgresql://user:password@host/database."
SQLITE = ("sqlite", "sqlite+pysqlite")
POSTGRES = ("postgres", "postgresql", "postgresql+psycopg")

# SQLite's locks and shared memory are for one machine. What FUSE mounts is mostly somebody's drive or bucket.
NETWORK_FILE_SYSTEM = re.compile(
    r"nfs\d?|cifs|smb\w*|9p|afs|afpfs|beegfs\w*|ceph|davfs\d?|drvfs|gfs2?|gluster\w*|gpfs|lustre|ncpfs|ocfs2|orangefs|"
    r"panfs|pvfs2|vboxsf|webdav|wekafs|"
    r"fuse(\.(?!(bindfs|encfs|exfat|fuse-overlayfs|gocryptfs|lxcfs|mergerfs|ntfs-3g|overlayfs|shfs)$).*)?"
)
MOUNTINFO = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """Where a database is.

    Attributes:
        kind: which.
        url: as SQLAlchemy takes it, with the password.
        file: of a SQLite database; None for one in memory, and for Postgres.
    """

    kind: Literal["sqlite", "postgres"]
    url: URL
    file: Path | None = None

    @property
    def is_memory(self) -> bool:
        """Whether it ends with whoever opened it."""
        return self.kind == "sqlite" and self.file is None

    def __str__(self) -> str:
        """For messages, without user and password."""
        if self.file is not None:
            return f"the database {self.file}"
        if self.is_memory:
            return "the database in memory"
        return f"the Postgres database {self.url.database or ''!r} at {self.url.host or 'this machine'}"

    def __repr__(self) -> str:
        return f"DatabaseUrl({self})"


def parse_database_url(url: str) -> DatabaseUrl:
    """What a database's URL means.

    Raises:
        ConfigError: it is not a URL, or of a kind that is not supported. The message does not contain it.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # their messages, and so the chain, may contain the password
        raise ConfigError(f"Setting database_url is not the URL of a database. {ALLOWED}") from None
    if parsed.drivername in POSTGRES:
        return DatabaseUrl("postgres", parsed.set(drivername="postgresql+psycopg"))
    if parsed.drivername not in SQLITE:
        raise ConfigError(f"Setting database_url begins with {parsed.drivername}://, which is not known. {ALLOWED}")
    if parsed.host or parsed.query or parsed.username:
        raise ConfigError(
            "Setting database_url has more than a path; SQLite takes three slashes and a relative path "
            "(sqlite:///file.db), or four for an absolute one (sqlite:////folder/file.db)."
        )
    if parsed.database in (None, "", ":memory:"):
        return memory_database()
    return sqlite_file(Path(parsed.database or "").expanduser())


def memory_database() -> DatabaseUrl:
    """A database that ends with whoever opened it."""
    return DatabaseUrl("sqlite", URL.create("sqlite"))


def sqlite_file(file: Path) -> DatabaseUrl:
    """A SQLite database in a file."""
    file = file.absolute()
    return DatabaseUrl("sqlite", URL.create("sqlite", database=str(file)), file)


def check_folder(file: Path) -> None:
    """Raise unless a SQLite database can live at a place.

    Raises:
        ConfigError: the folder is missing, or on a file system of another machine.
    """
    if not file.parent.is_dir():
        raise ConfigError(f"The folder {file.parent} of the database {file.name} does not exist. Make it first.")
    if file.is_dir():
        raise ConfigError(f"The database {file} is a folder; setting database_url takes the path of a file.")
    kind = network_file_system(file)
    if kind is not None:
        raise ConfigError(
            f"The database {file} would be on a network file system ({kind}), where SQLite loses or locks up what "
            "is written. Set LLMAPI_KIT_DATABASE_URL to a file on this machine's disk (sqlite:////path/to/file.db) or "
            "to a Postgres server (postgresql://…)."
        )


def network_file_system(path: Path) -> str | None:
    """The kind of the network file system that a path is on; None where it is on this machine.

    Where the system does not tell, the path counts as local.
    """
    try:
        real = path.resolve()
        mounts = _mounts()
    except (OSError, RuntimeError, psutil.Error):
        return None
    for folder in (real, *real.parents):
        if folder in mounts:
            kind = mounts[folder].lower()
            return kind if NETWORK_FILE_SYSTEM.fullmatch(kind) else None
    return None


def _mounts() -> dict[Path, str]:
    """The kind of the file system at each place where one is mounted; of several at a place the last.

    Source: proc(5), "mountinfo".
    """
    if not MOUNTINFO.exists():
        return {
            Path(disk_partition.mountpoint): disk_partition.fstype
            for disk_partition in psutil.disk_partitions(all=True)
        }
    mounts = {}
    for line in MOUNTINFO.read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        place = re.sub(rb"\\(\d{3})", lambda match: bytes([int(match.group(1), 8)]), before.split(b" ")[4])
        mounts[Path(os.fsdecode(place))] = os.fsdecode(after.split(b" ")[0])
    return mounts
