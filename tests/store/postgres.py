"""A real Postgres server of our own, in a folder of its own, on a Unix socket."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

import psycopg

DEADLINE_S = 60
MISSING = (
    "The tests of the store need a Postgres server's programs (initdb, pg_ctl), and none are on PATH or in "
    "/usr/lib/postgresql/*/bin. Install them: apt-get install -y postgresql"
)
UNPRIVILEGED = ("postgres", "nobody")
# LOCKED needs its password, everybody else gets in
LOCKED, PASSWORD = "locked", "s3cret-pass/word@1"
HBA = f"local all {LOCKED} scram-sha-256\nlocal all all trust\n"


def find_programs() -> Path:
    """The folder of a server's programs, the newest ones."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += [Path(found) for found in sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)]
    for folder in folders:
        if all((folder / name).exists() for name in ("initdb", "postgres", "pg_ctl")):
            return folder
    raise RuntimeError(MISSING)


class Postgres:
    """A cluster. Postgres refuses to run as root, so for root it is another user's."""

    def __init__(self) -> None:
        self._programs = find_programs()
        self._folder = Path(tempfile.mkdtemp(prefix="llmapi_kit_pg_", dir="/tmp"))  # a socket's path may not be long
        self._num_schemas = 0
        self._user: dict[str, object] = {}
        if os.geteuid() == 0:
            names = {entry.pw_name for entry in pwd.getpwall()}
            entry = pwd.getpwnam(next(name for name in UNPRIVILEGED if name in names))
            os.chown(self._folder, entry.pw_uid, entry.pw_gid)
            self._user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        self._data = self._folder / "data"
        options = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        self._run("initdb", "-D", str(self._data), *options)
        (self._data / "pg_hba.conf").write_text(HBA)
        self.start()
        self.sql(f"CREATE ROLE {LOCKED} LOGIN PASSWORD '{PASSWORD}'")

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = f"-c listen_addresses='' -c unix_socket_directories='{self._folder}' -c fsync=off"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(self._data), "-w", "-t", str(DEADLINE_S), "-l", log, "-o", options, "start")

    def stop(self) -> None:
        """Stop: connections are cut, and transactions that are under way are lost."""
        self._run("pg_ctl", "-D", str(self._data), "-w", "-t", str(DEADLINE_S), "-m", "fast", "stop")

    def close(self) -> None:
        """Stop, and leave nothing behind."""
        self.stop()
        shutil.rmtree(self._folder)

    def new_database(self) -> str:
        """The URL of an empty schema, which is what a database is to those who look at it, and made much faster."""
        self._num_schemas += 1
        name = f"test{self._num_schemas}"
        self.sql(f"CREATE SCHEMA {name}")
        return f"{self.url('postgres')}&options=-csearch_path%3D{name}"

    def url(self, database: str, user: str = "postgres", password: str = "") -> str:
        """The URL of a database."""
        who = f"{user}:{quote(password, safe='')}" if password else user
        return f"postgresql://{who}@/{database}?host={self._folder}"

    def sql(self, statement: str) -> None:
        """Run a statement as the administrator."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def _run(self, program: str, *arguments: str) -> None:
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
        # No pipes: the server that pg_ctl starts would hold them open
        with open(os.devnull) as nothing, tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [str(self._programs / program), *arguments],
                stdin=nothing,
                stdout=output,
                stderr=output,
                cwd=self._folder,
                env=environment,
                timeout=DEADLINE_S,
                **self._user,
            )
            output.seek(0)
            assert done.returncode == 0, f"{program} failed:\n{output.read()}"
