"""A Python that has imported what a server and its clients need, and forks for each program that a test starts.

A program is a process of its own, as if it had just done these imports, which take ten times as long as the rest of
what most programs of tests do. What the imports themselves do is tested with programs that start from nothing.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Not `llmapi_kit.kit`, which stops at exit what the process that imported it has launched
IMPORTS = (
    "llmapi_kit.own_servers",
    "llmapi_kit.client",
    "llmapi_kit.store.store",
    "llmapi_kit.engines.mock",
    "openai.resources.chat",
    "sqlalchemy.dialects.sqlite",
    "typer",
)
# `llmapi-kit` with the arguments that the program gets
COMMAND_LINE = "import runpy; runpy.run_module('llmapi_kit', run_name='__main__', alter_sys=True)"
ORDER_BYTES = 1 << 17
DEADLINE_S = 60.0


class WarmPython:
    """Starts programs in forks of a process that is started first; elsewhere than on Linux, from nothing.

    Args:
        imports: modules to import besides those that a server needs; none of them may start threads.
    """

    def __init__(self, *imports):
        self._process, self._lock = None, threading.Lock()
        if not hasattr(os, "pidfd_open"):
            return
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-W", "error", __file__, str(theirs.fileno()), *IMPORTS, *imports]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT, start_new_session=True)

    def start(self, code, *arguments, stdin=subprocess.DEVNULL, stdout=1, stderr=2, folder=None, **environment):
        """Run Python code with these files, in a session of its own; a `WarmProgram`, or a Popen.

        Warnings are errors in it.
        """
        environment, folder = {**os.environ, **environment}, str(folder or os.getcwd())
        if self._process is None:
            command = [sys.executable, "-W", "error", "-c", code, *arguments]
            files = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
            return subprocess.Popen(command, **files, cwd=folder, env=environment, start_new_session=True)
        order = {"code": code, "arguments": arguments, "environment": environment, "folder": folder}
        with open(os.devnull) as nothing:
            files = [nothing.fileno() if stdin == subprocess.DEVNULL else stdin, stdout, stderr]
            return WarmProgram(int(self._ask(order, files)), self._status)

    def run(self, code, *arguments, typed="", **environment):
        """As `subprocess.run` does with text, captured; `typed` is what it reads."""
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(3)]
            files[0].write(typed)
            files[0].seek(0)
            stdin, stdout, stderr = (file.fileno() for file in files)
            program = self.start(code, *arguments, stdin=stdin, stdout=stdout, stderr=stderr, **environment)
            try:
                status = program.wait(DEADLINE_S)
            finally:
                program.kill()
            shown = [file.seek(0) or file.read() for file in files[1:]]
        return subprocess.CompletedProcess(arguments, status, *shown)

    def close(self):
        """End what forks; programs go on."""
        if self._process is not None:
            self._orders.close()
            self._process.wait(DEADLINE_S)

    def _status(self, pid):
        return os.waitstatus_to_exitcode(int(self._ask({"ended": pid}, [])))

    def _ask(self, order, files):
        with self._lock:
            socket.send_fds(self._orders, [json.dumps(order).encode()], files)
            return self._orders.recv(ORDER_BYTES)


class WarmProgram:
    """A program that runs, with the part of `subprocess.Popen` that tests use."""

    def __init__(self, pid, status):
        self.pid, self.returncode = pid, None
        self._status, self._end, self._lock = status, os.pidfd_open(pid), threading.Lock()

    def wait(self, timeout=DEADLINE_S):
        if self.poll(timeout) is None:
            raise subprocess.TimeoutExpired("a program", timeout)
        return self.returncode

    def poll(self, timeout=0):
        with self._lock:
            if self.returncode is None and select.select([self._end], [], [], timeout)[0]:
                self.returncode = self._status(self.pid)
                os.close(self._end)
            return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            signal.pidfd_send_signal(self._end, number)

    def kill(self):
        """End it at once, if it still runs."""
        self.send_signal(signal.SIGKILL)
        self.wait()


def obey(orders):
    """Fork for each order until there are no more; in a fork, what it shall run."""
    while True:
        message, files, _, _ = socket.recv_fds(orders, ORDER_BYTES, 3)
        if not message:
            return None
        order = json.loads(message)
        if "ended" in order:
            orders.send(str(os.waitpid(order["ended"], 0)[1]).encode())
            continue
        pid = os.fork()
        if pid == 0:
            return {**order, "files": files}
        orders.send(str(pid).encode())
        for file in files:
            os.close(file)


def become(program):
    """Take on the files, environment, folder and arguments of a program; its module."""
    os.setsid()
    for number, file in enumerate(program["files"]):
        os.dup2(file, number)
        os.close(file)
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())
    os.environ.clear()
    os.environ.update(program["environment"])
    os.chdir(program["folder"])
    sys.argv = ["-c", *program["arguments"]]
    sys.modules["__main__"] = types.ModuleType("__main__")
    return sys.modules["__main__"]


if __name__ == "__main__":
    gc.disable()  # until all is there that stays
    sys.path[0] = str(ROOT)
    for name in sys.argv[2:]:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a fork has none of the other threads"
    gc.freeze()
    gc.enable()
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        ordered = obey(asked)
    if ordered is not None:
        exec(compile(ordered["code"], "<string>", "exec"), become(ordered).__dict__)
