"""The private folder and the pid file of one agent, and the sweep of those that nobody came back for.

Under the state folder, `ngrok-1f3a.json` says who owns which agent process, and the folder `ngrok-1f3a/`
beside it holds what only that agent may read. The pid file is written first and removed last, so no folder
is ever without one. Knows no provider. The tunnel's thread makes, sweeps and removes; the thread in
`start()` or `stop()` may look.

A process is always named by its id *and* its creation time: ids are used again, and a stranger is never
ended.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import shutil
import socket
import sys
import threading
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from llmapi_kit.errors import ConfigError
from llmapi_kit.tunnels import launcher

logger = logging.getLogger(__name__)

# psutil counts from the boot time, which another process may have read a second apart.
CREATED_TOLERANCE_S = 1.5


@dataclass(frozen=True)
class ProcessMark:
    """One process of this machine, never a later one with the same id."""

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> ProcessMark | None:
        """The mark of a process that runs now; None if there is none."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    def find(self) -> psutil.Process | None:
        """The process, if it still runs; one that ended and waits to be collected counts as gone."""
        try:
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.created) > CREATED_TOLERANCE_S:
                return None
            return None if process.status() == psutil.STATUS_ZOMBIE else process
        except psutil.Error:
            return None


class AgentFolder:
    """Where one agent's files are, readable by this user only. Ownership: made and removed by its tunnel."""

    def __init__(self, kind: str, state_dir: Path) -> None:
        """Write the pid file, naming this process as the owner, and make the folder.

        Raises:
            ConfigError: the state folder can't be written.
        """
        name = f"{kind}-{uuid.uuid4().hex[:12]}"
        self._state_dir = state_dir.resolve()
        self._kind = kind
        self._pid_file = self._state_dir / f"{name}.json"
        self._launched_pid_file = self._state_dir / name / "agent.pid"
        self._agent: ProcessMark | None = None
        self._removed = False
        self._lock = threading.Lock()
        self.path = self._state_dir / name
        try:
            self._state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._write_pid_file()
            self.path.mkdir(mode=0o700)
        except OSError as exc:
            raise ConfigError(
                f"The tunnel's state folder {self._state_dir} can't be used: {exc}. "
                "Choose one on a local disk that you can write to."
            ) from exc

    def write_private(self, name: str, text: str, *, mode: int = 0o600) -> Path:
        """Write a file that only this user can read, and that no one could read while it was written."""
        path = self.path / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def write_launcher(self, agent: Path, *, drop_variables: Sequence[str] = ()) -> Path:
        """A program to start in place of `agent`, with the same arguments; see `launcher`.

        Must be started by a thread of this process that lives as long as the agent is to.
        """
        command = [
            sys.executable,
            "-I",
            "-S",
            str(Path(launcher.__file__).resolve()),
            str(self._launched_pid_file),
            str(os.getpid()),
            ",".join(drop_variables),
            str(agent),
        ]
        return self.write_private("agent", f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', mode=0o700)

    def record_agent(self) -> ProcessMark | None:
        """Note in the pid file which process the launcher became, once it has said so. Cheap to repeat."""
        with self._lock:
            if self._agent is not None or self._removed:
                return self._agent
            try:
                pid = int(self._launched_pid_file.read_text(encoding="ascii"))
                mark = ProcessMark.of(pid)
                if mark is None or psutil.Process(pid).ppid() != os.getpid():
                    return None
            except (OSError, ValueError, psutil.Error):
                return None
            self._agent = mark
            self._write_pid_file()
            return mark

    def kill_agent(self) -> None:
        """SIGKILL the agent if it runs; does not wait for its end."""
        mark = self.record_agent()
        process = mark.find() if mark else None
        if process is not None:
            with contextlib.suppress(psutil.Error):
                process.kill()

    def remove(self) -> None:
        """Remove the folder, then the pid file. May be repeated."""
        with self._lock:
            self._removed = True
            shutil.rmtree(self.path, ignore_errors=True)
            self._pid_file.unlink(missing_ok=True)

    def _write_pid_file(self) -> None:
        owner = ProcessMark.of(os.getpid())
        record = {
            "kind": self._kind,
            "host": socket.gethostname(),
            "owner": asdict(owner) if owner else None,
            "agent": asdict(self._agent) if self._agent else None,
        }
        # A reader must never see half a file.
        draft = self._pid_file.with_suffix(".draft")
        try:
            draft.write_text(json.dumps(record), encoding="utf-8")
            draft.replace(self._pid_file)
        finally:
            draft.unlink(missing_ok=True)  # an interrupted cell must not leave it behind


def end_process(process: psutil.Process, *, grace_s: float = 1.5) -> None:
    """Ask a process to end, then kill it. Blocks at most about twice `grace_s`; one that is gone is fine."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
        process.terminate()
        process.wait(grace_s)
        return
    with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
        process.kill()
        process.wait(grace_s)


def sweep_stale_agents(state_dir: Path) -> list[int]:
    """End agents whose owner process is gone, and remove what they left. Returns the process ids it ended.

    Pid files of other machines, and files it can't understand, are left alone.
    """
    ended: list[int] = []
    for pid_file in sorted(state_dir.glob("*.json")):
        try:
            record = json.loads(pid_file.read_text(encoding="utf-8"))
            host, owner, agent = record["host"], _mark(record["owner"]), _mark(record["agent"])
        except (OSError, ValueError, KeyError, TypeError) as exc:
            logger.warning("The pid file %s can't be read and is left alone: %s", pid_file, exc)
            continue
        if host != socket.gethostname() or (owner is not None and owner.find() is not None):
            continue
        process = agent.find() if agent is not None else None
        if process is not None:
            logger.info("Ending a tunnel's agent (pid %d) whose owner is gone", process.pid)
            try:
                end_process(process)
            except psutil.AccessDenied:
                continue
            ended.append(process.pid)
        shutil.rmtree(pid_file.with_suffix(""), ignore_errors=True)
        pid_file.unlink(missing_ok=True)
    return ended


def _mark(record: object) -> ProcessMark | None:
    if record is None:
        return None
    if not isinstance(record, dict):
        raise TypeError(f"expected a process, not {record!r}")
    return ProcessMark(int(record["pid"]), float(record["created"]))
