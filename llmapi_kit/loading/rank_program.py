"""The process of a rank that is not the first: loads its part of a model, and does what the first one is asked to do.

Run as ``main()`` with a socket's descriptor, the first rank's process id and the folder that the ranks share. Ends when
the first rank does, whatever is being computed.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

OWNER_CHECK_S = 1.0


def main() -> None:
    """Run until the first rank says so, or is gone."""
    descriptor, owner, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    threading.Thread(target=_end_with_input, args=(folder,), daemon=True).start()
    threading.Thread(target=_end_with_owner, args=(owner, folder), daemon=True).start()
    connection: Connection[Any, Any] = Connection(descriptor)
    try:
        _serve(connection)
    except Exception as exc:
        traceback.print_exc()
        sys.stderr.flush()
        with suppress(OSError):
            connection.send(("failed", f"{type(exc).__name__}: {exc}"))
        os._exit(1)
    os._exit(0)  # what is left to free goes with the process


def _serve(connection: Connection[Any, Any]) -> None:
    task = connection.recv()
    from llmapi_kit.checkpoints.fit import free_memory
    from llmapi_kit.loading.runner_choice import make_runner

    loaded = task.load()
    connection.send(("free", free_memory(loaded.device)))
    _, (plan,) = connection.recv()
    runner: Any = make_runner(loaded, plan, task.settings)
    while True:
        name, arguments = connection.recv()
        if name == "close":
            return
        getattr(runner, name)(*arguments)


def _end_with_input(folder: str) -> None:
    with suppress(OSError):
        while os.read(0, 1):
            pass
    _end(folder)


def _end_with_owner(owner: int, folder: str) -> None:
    """A process that the first rank forked may hold the other end of standard input. No event tells of this."""
    while os.getppid() == owner:
        time.sleep(OWNER_CHECK_S)
    _end(folder)


def _end(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)
