"""The other ranks of a model that is divided over several processes: starts them, tells them what to do, ends them.

Ranks compute every step together, so none goes on without the others: when one of them ends, this process ends as well,
and whoever started it starts all of them anew. Knows nothing of models. Only for a process that may be ended so.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NoReturn

MAX_END_S = 5.0
# For how long a failure waits for who may say better what is behind it
GRACE_S = 5.0
_PROGRAM = "from llmapi_kit.loading.rank_program import main; main()"


class RankProcesses:
    """All ranks but the first, which is this process. They end with it.

    Args:
        num_ranks: with the first.
        task: what a rank is to load, by its number and the folder that all of them share; picklable.

    Attributes:
        folder: that they share, and nobody else can read.
    """

    def __init__(self, num_ranks: int, task: Callable[[int, str], Any]) -> None:
        self.folder = tempfile.mkdtemp(prefix="llmapi_kit-")
        self._num_ranks = num_ranks
        self._said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._is_closing = False
        self._ending = threading.Lock()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._connections: list[Connection[Any, Any]] = []
        for rank in range(1, num_ranks):
            self._start(rank, task(rank, self.folder))

    def tell(self, name: str, *arguments: Any) -> None:
        """Have each of them do something; returns at once."""
        for connection in self._connections:
            with suppress(OSError):  # it is gone, as its watcher finds out
                connection.send((name, arguments))

    def heard(self) -> list[Any]:
        """What each of them says next; waits for it."""
        return [self._said.get() for _ in self._processes]

    def remove_folder(self) -> None:
        """Every rank has computed with every other one, or never will."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def give_up(self, error: Exception) -> NoReturn:
        """End this process, and so all of them: something that all were to do failed here."""
        time.sleep(GRACE_S)  # where a rank is gone, its watcher says so meanwhile
        self._end_all(f"a step failed: {type(error).__name__}: {error}")

    def close(self) -> None:
        """End the others. Safe to call twice."""
        self._is_closing = True
        self.tell("close")
        for process, connection in zip(self._processes, self._connections, strict=True):
            try:
                process.wait(MAX_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            connection.close()
        self.remove_folder()

    def _start(self, rank: int, task: Any) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), str(os.getpid()), self.folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        connection: Connection[Any, Any] = Connection(ours.detach())
        connection.send(task)
        self._processes.append(process)
        self._connections.append(connection)
        watcher = threading.Thread(target=self._watch, args=(rank, process, connection), daemon=True)
        watcher.start()

    def _watch(self, rank: int, process: subprocess.Popen[bytes], connection: Connection[Any, Any]) -> None:
        """Of a thread: take what a rank says until it ends, which it is not to do before it is told."""
        why = ""
        with suppress(EOFError, OSError):
            while not why:
                kind, value = connection.recv()
                if kind == "failed":
                    why = value
                else:
                    self._said.put(value)
        code = process.wait()
        if self._is_closing:
            return
        if why:
            time.sleep(GRACE_S)  # a step fails in all ranks where one is gone, and that one's watcher knows why
        is_signal = -code in signal.valid_signals()
        ended = why or (signal.Signals(-code).name if is_signal else f"exit code {code}")
        self._end_all(f"rank {rank} of {self._num_ranks} ended: {ended}")

    def _end_all(self, why: str) -> NoReturn:
        self._ending.acquire()  # for ever: of several reasons, the first one counts
        sys.stderr.write(f"The model was divided over {self._num_ranks} processes, and {why}\n")
        sys.stderr.flush()
        self.remove_folder()
        os._exit(1)
