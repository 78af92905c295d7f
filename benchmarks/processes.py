"""Servers as processes: started on a free port, waited for, held still while another is measured, stopped.

A server that is held still (SIGSTOP) takes no time from the one that is measured. Everything that was started is
stopped when the ``with`` block ends, also by Ctrl-C or SIGTERM; `stop_on_sigterm` turns the latter into an exit.
POSIX only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import psutil

SAMPLE_S = 0.1
STOP_S = 10.0
POLL_S = 0.2
LOG_LINES = 12


class ServerFailedError(Exception):
    """A server did not start, or ended; the message has the end of its log."""


class ServerProcess:
    """A server in a process group of its own; use as a context manager.

    Args:
        name: for messages and the log's name.
        command: what to run.
        url: its root, ``http://127.0.0.1:port``.
        ready_path: answers 200 once requests can be made.
        env: environment variables to add.
        log: file that gets what it prints.
        key: bearer key to ask with.
        start_timeout_s: until it must be ready.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        url: str,
        ready_path: str,
        log: Path,
        env: Mapping[str, str] | None = None,
        key: str | None = None,
        start_timeout_s: float = 300.0,
    ) -> None:
        self.name = name
        self.url = url
        self.log = log
        self.peak_rss_bytes = 0
        self._command = list(command)
        self._ready_url = url + ready_path
        self._env = {**os.environ, **(env or {})}
        self._key = key
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._has_ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch_memory, name=f"memory of {name}", daemon=True)

    def __enter__(self) -> ServerProcess:
        """Start it and wait until it is ready.

        Raises:
            ServerFailedError: it ended, or was not ready in time.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._env, start_new_session=True
            )
        self._watcher.start()
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    @property
    def is_alive(self) -> bool:
        """Whether the process runs, or is held still."""
        return self._process is not None and self._process.poll() is None

    def hold(self) -> None:
        """Stop it where it stands, with all its children."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run again."""
        self._signal(signal.SIGCONT)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the server alone, not to its children."""
        if self._process is not None:
            self._process.send_signal(number)

    def stop(self) -> None:
        """End it and its children. Safe to call twice."""
        self._has_ended.set()
        if self._process is None:
            return
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        self._signal(signal.SIGKILL)  # children too that outlived it
        self._process.wait()

    def log_tail(self) -> str:
        """The last lines it printed."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.is_file() else []
        return "\n".join(line[:300] for line in lines[-LOG_LINES:])

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        request = urllib.request.Request(self._ready_url)  # noqa: S310 - a loopback URL made here
        if self._key:
            request.add_header("Authorization", f"Bearer {self._key}")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while time.monotonic() < deadline:
            if not self.is_alive:
                raise ServerFailedError(f"{self.name} ended before it was ready. Its log ends:\n{self.log_tail()}")
            try:
                with opener.open(request, timeout=10) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(POLL_S)
        raise ServerFailedError(
            f"{self.name} was not ready after {self._start_timeout_s:.0f} s. Its log ends:\n{self.log_tail()}"
        )

    def _watch_memory(self) -> None:
        while self._process is not None and not self._has_ended.wait(SAMPLE_S):
            with contextlib.suppress(psutil.Error):
                root = psutil.Process(self._process.pid)
                rss = 0
                for process in (root, *root.children(recursive=True)):
                    with contextlib.suppress(psutil.Error):
                        rss += process.memory_info().rss
                self.peak_rss_bytes = max(self.peak_rss_bytes, rss)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stop_on_sigterm() -> None:
    """Make SIGTERM leave through every ``finally``, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped by SIGTERM."))
