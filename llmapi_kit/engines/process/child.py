"""Starts the process that an engine lives in, and talks with it; knows nothing of what is said."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from llmapi_kit.engines.process.wire import HEADER_BYTES, FromEngine, ToEngine, length_of, packed, unpacked

MAX_END_S = 10.0
_PROGRAM = "from llmapi_kit.engines.process.program import main; main()"


class Child:
    """A process that runs `llmapi_kit.engines.process.program`. Starts at once; ends with this process at the latest.

    Args:
        environment: variables in place of this process's.

    Attributes:
        pid: its process id.
        has_ended: set once it was waited for, and all that belonged to it is closed.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        self._door, their_door = socket.socketpair()
        self._door.setblocking(False)  # or a process that is stopped would hold up event loops
        self._socket = ours
        self._stream = ours.makefile("rb")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as this is
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        with theirs, their_door:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), str(os.getpid())],
                stdin=their_door.fileno(),
                stdout=self._errors,
                stderr=self._errors,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, **environment, "PYTHONPATH": path},
                start_new_session=True,  # or interrupting a cell would end it as well
            )
        self.pid = self._process.pid
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=self._write, name="llmapi_kit engine process", daemon=True).start()
        self._lock = threading.Lock()
        self._last_line, self._killed_because = "", ""
        self.has_ended = threading.Event()
        self._kill_with_this = weakref.finalize(self, _kill_and_wait, self._process)

    def send(self, message: ToEngine) -> None:
        """Send a message; from any thread, and without waiting for the process to take it.

        Raises:
            Exception: of pickle, where it holds what can't be sent.
        """
        self._outgoing.put(packed(message))

    def connect(self) -> socket.socket:
        """A further connection, for one event loop."""
        ours, theirs = socket.socketpair()
        with theirs, suppress(OSError):  # where it is gone, or takes nothing, ours is closed now
            socket.send_fds(self._door, [b"+"], [theirs.fileno()])
        return ours

    def messages(self) -> Iterator[list[FromEngine]]:
        """What it says, until it ends."""
        while (content := self._read()) is not None:
            yield unpacked(content)

    def kill(self, why: str = "") -> None:
        """End it at once, whatever it is doing; `messages` ends, also where the system can't end the process yet.

        Args:
            why: in words, for `how_it_ended`.
        """
        if self._process.poll() is None:  # else it has ended by itself, for a reason of its own
            self._killed_because = why
        _kill(self._process)
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Wait until it has ended, and end it where that takes too long. Safe to call twice."""
        try:
            self._process.wait(MAX_END_S)
        except subprocess.TimeoutExpired:
            _kill(self._process)
            with suppress(subprocess.TimeoutExpired):  # a driver can hold it for as long as it likes
                self._process.wait(MAX_END_S)
        with self._lock:
            if self.has_ended.is_set():
                return
            self.has_ended.set()
            self._errors.seek(0)
            lines = self._errors.read()[-4000:].decode(errors="replace").strip().splitlines()
            self._last_line = lines[-1][-300:] if lines else ""
            self._outgoing.put(None)
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # or a reader would wait for whoever holds the other end
            for each in (self._errors, self._stream, self._socket, self._door):
                with suppress(OSError):
                    each.close()

    def how_it_ended(self) -> str:
        """In words, with the last line that it wrote; waits for its end."""
        self.end()
        code = self._process.returncode
        if self._killed_because or code is None:
            return self._killed_because or "it can't be ended"
        if code >= 0:
            return f"exit code {code}" + (f": {self._last_line}" if code and self._last_line else "")
        name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
        return f"{name}, as when memory runs out" if code == -signal.SIGKILL else name

    def _read(self) -> bytes | None:
        try:
            header = self._stream.read(HEADER_BYTES)
            if len(header) < HEADER_BYTES:
                return None
            content = self._stream.read(length_of(header))
        except (OSError, ValueError):  # it, or the socket, is gone
            return None
        return content

    def _write(self) -> None:
        while (content := self._outgoing.get()) is not None:
            with suppress(OSError):  # it is gone, as whoever reads finds out
                self._socket.sendall(content)


def _kill(process: subprocess.Popen[Any]) -> None:
    """Kill a process, and those in its group that compute with it: one that is stopped ends in no other way."""
    if process.poll() is None:
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)


def _kill_and_wait(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        _kill(process)
        process.wait()
