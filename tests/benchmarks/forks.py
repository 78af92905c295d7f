"""Programs of Python as forks of one that has torch imported, so that each begins at once.

`python -m tests.benchmarks.forks FD` is that one. It has no thread, so that a fork of it is whole. Each program has a
keeper, a fork as well, which tells what became of it. Programs get the arguments, environment, folder and output that
they would get by themselves, in a session of their own, and run as ``__main__``.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from contextlib import suppress

IMPORTED = (
    *("torch", "transformers", "llguidance", "uvicorn", "sqlalchemy", "alembic", "openai", "psutil", "numpy"),
    *("llmapi_kit.kit", "llmapi_kit.engines.local.engine", "llmapi_kit.server.server", "llmapi_kit.store.store"),
    *("llmapi_kit.cli.app", "llmapi_kit.runners.torch_runner", "transformers.models.auto.modeling_auto"),
)
MAX_REQUEST_BYTES = 1 << 18


class Forks:
    """The other end of the program that forks."""

    def __init__(self):
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", __name__, str(theirs.fileno())]
            env = {**os.environ, "OMP_NUM_THREADS": "1"}  # else some that are imported start threads
            self._program = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=env)

    def close(self):
        """End it; programs go on."""
        self._socket.close()
        assert self._program.wait(60) == 0

    def popen(self, command, *, stdout, env, cwd=None, **others):
        """A `Fork` in place of a `subprocess.Popen`, for ``[sys.executable, "-m", …]``."""
        assert command[:2] == [sys.executable, "-m"]
        assert others.keys() <= {"stdin", "stderr", "start_new_session"}
        request = json.dumps([command[2:], dict(env), str(cwd or os.getcwd())]).encode()
        told, tell = os.pipe()
        socket.send_fds(self._socket, [request], [stdout.fileno(), tell])
        os.close(tell)
        return Fork(told)

    def run(self, command, *, env=None, cwd=None, **others):
        """As `subprocess.run` with ``check=True, text=True``; what it prints is in ``stdout``."""
        with tempfile.TemporaryFile("w+") as output:
            code = self.popen(command, stdout=output, env=env or os.environ, cwd=cwd).wait()
            output.seek(0)
            printed = output.read()
        assert code == 0, printed
        return subprocess.CompletedProcess(command, code, printed, "")


class Fork:
    """A program that runs, or ran, as a `subprocess.Popen` is one.

    Attributes:
        pid: of its process.
    """

    def __init__(self, told):
        self._told = os.fdopen(told)
        self._code = None
        self.pid = int(self._told.readline())

    def poll(self):
        """Its exit code; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self._code

    def wait(self, timeout=None):
        """Its exit code."""
        if self._code is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a fork", timeout)
            self._code = int(self._told.readline())
            self._told.close()
        return self._code

    def send_signal(self, number):
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)


def keep(tell):
    """Fork: returns in the program, and in its keeper never."""
    pid = os.fork()
    if pid == 0:
        os.close(tell)
        return
    os.write(tell, f"{pid}\n".encode())
    os.write(tell, f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())
    os._exit(0)


def become(arguments, environment, folder, output):
    """Be the program that was asked for, in a process that is new."""
    os.setsid()
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.argv = list(arguments)
    sys.path[:0] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    code = 0
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
        if isinstance(exc.code, str):
            print(exc.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    end(code)


def end(code):
    """As the interpreter does, but for what would take apart all that was imported and is shared."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve(connection):
    """Fork for each request, until nobody can make one."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for keepers
    while True:
        request, descriptors, *_ = socket.recv_fds(connection, MAX_REQUEST_BYTES, 2)
        if not request:
            return
        output, tell = descriptors
        if os.fork() == 0:
            connection.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else it could not wait for the program
            keep(tell)
            become(*json.loads(request), output)
            return
        os.close(output)
        os.close(tell)


if __name__ == "__main__":
    for name in IMPORTED:
        __import__(name)
    gc.collect()
    gc.freeze()
    assert len(os.listdir("/proc/self/task")) == 1, "a fork would lack the other threads"
    serve(socket.socket(fileno=int(sys.argv[1])))
