"""The life of a tunnel whose work is done by an agent program: start, watch, stop.

`AgentTunnel` is what every such kind shares; a kind says how its agent is spawned, how a URL is had from
it, and what its errors mean. It knows no provider.

Threads: one *tunnel thread* per tunnel spawns the agent and lives as long as it (on Linux the kernel kills
the agent when the thread that spawned it ends, see `launcher`), watches it and cleans up after it. A second
one reads what it prints. `start`, `check` and `stop` run in the caller's thread, usually a cell's. All are
daemon threads: they never hold up the interpreter's exit, where a hook stops what still runs.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from llmapi_kit.errors import ConfigError, LlmApiKitError, TunnelDownError, TunnelError, TunnelTimeoutError
from llmapi_kit.tunnels.agent_folder import AgentFolder, sweep_stale_agents
from llmapi_kit.tunnels.agent_log import AgentLog
from llmapi_kit.tunnels.base import TunnelSettings, TunnelState, TunnelStatus
from llmapi_kit.tunnels.health import Health

logger = logging.getLogger(__name__)

WATCH_INTERVAL_S = 0.25
TERMINATE_GRACE_S = 1.5
STOP_TIMEOUT_S = 6.0
# What an agent says as it ends is why; its output is read to the end first
LAST_WORDS_S = 0.5

_running: set[AgentTunnel] = set()


class AgentTunnel(ABC):
    """A tunnel kept open by an agent process. Implements the `Tunnel` protocol."""

    def __init__(self, *, port: int, settings: TunnelSettings) -> None:
        if os.name != "posix":
            raise ConfigError(f"The {self.kind} tunnel runs on Linux and macOS; on Windows use WSL.")
        self.port = port
        self.settings = settings
        self.log = AgentLog()
        self._status = TunnelStatus("stopped")
        self._error: LlmApiKitError | None = None
        self._thread: threading.Thread | None = None
        self._folder: AgentFolder | None = None
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._lock = threading.Lock()
        self._opened = threading.Event()  # the agent has given a URL
        self._settled = threading.Event()  # start() has its answer
        self._stopping = threading.Event()
        self._deadline = 0.0

    def __repr__(self) -> str:
        status = self._status
        return f"<{type(self).__name__} port={self.port} {status.state} {status.public_url or ''}>"

    # What a kind provides.

    @property
    @abstractmethod
    def kind(self) -> str:
        """The name `open_tunnel` knows it by."""

    @property
    def settle_s(self) -> float:
        """See `Tunnel.settle_s`."""
        return 0.0

    @abstractmethod
    def prepare(self) -> None:
        """See `Tunnel.prepare`."""

    @abstractmethod
    def _find_agent(self) -> Path:
        """The agent program, downloaded if need be. In the tunnel thread; `stop()` does not wait for it."""

    @abstractmethod
    def _spawn(self, folder: AgentFolder, agent: Path) -> subprocess.Popen[str]:
        """Start the agent by `folder.write_launcher`. In the tunnel thread; may block until it is killed."""

    @abstractmethod
    def _connect(self) -> str:
        """The public URL of the agent that runs now. In the tunnel thread; may block until it is killed."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Tell the agent that the URL is not wanted any more. In the tunnel thread; at most 2 s; may fail."""

    @abstractmethod
    def _explain(self, exc: Exception) -> LlmApiKitError:
        """The kit's error for what `_spawn` or `_connect` raised, without secrets."""

    @abstractmethod
    def _explain_exit(self, returncode: int) -> tuple[str, str | None]:
        """Why an agent that was up ended: a sentence and the provider's code, if there is one."""

    @abstractmethod
    def _ask_health(self, public_url: str, timeout_s: float) -> Health:
        """What the public URL answers. In the caller's thread."""

    # The Tunnel protocol.

    def start(self) -> str:
        """See `Tunnel.start`."""
        with self._lock:
            if self._status.state == "up" and self._status.public_url:
                return self._status.public_url
            if self._thread is not None or self._stopping.is_set() or self._status.state != "stopped":
                raise TunnelError(f"A tunnel is used once; this {self.kind} tunnel was. Open a new one.")
            self._status = TunnelStatus("starting")
        self._deadline = time.monotonic() + self.settings.timeout_s
        try:
            self.prepare()
        except LlmApiKitError as exc:
            self._set_status(TunnelStatus("down", reason=str(exc), code=getattr(exc, "code", None)))
            raise
        try:
            with self._lock:
                if self._stopping.is_set():
                    raise self._stopped_while_starting()
                name = f"llmapi-kit-tunnel-{self.kind}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()
            has_settled = self._wait_settled()
        except BaseException:  # an interrupted cell must not leave an agent
            self.stop()
            raise
        if not has_settled:
            raise self._give_up()
        if self._error is not None:
            raise self._error
        if self._stopping.is_set() or self._status.public_url is None:
            raise self._stopped_while_starting()
        return self._status.public_url

    def status(self) -> TunnelStatus:
        """See `Tunnel.status`."""
        return self._status

    @property
    def is_open(self) -> bool:
        """See `Tunnel.is_open`."""
        return self._is_agent_watched()

    def probe(self, *, timeout_s: float = 10.0) -> Health | None:
        """See `Tunnel.probe`."""
        public_url = self._status.public_url
        if public_url is None or not self._is_agent_watched():
            return None
        return self._ask_health(public_url, timeout_s)

    def check(self, *, timeout_s: float = 10.0) -> TunnelStatus:
        """See `Tunnel.check`."""
        health = self.probe(timeout_s=timeout_s)
        with self._lock:
            public_url = self._status.public_url
            # It may have ended meanwhile; then that is what there is to say.
            if health is not None and self._is_agent_watched():
                state: TunnelState = "up" if health.is_ok else "down"
                self._status = TunnelStatus(state, public_url, health.reason, health.code)
            return self._status

    def stop(self) -> None:
        """See `Tunnel.stop`. In a forked child it does nothing: the tunnel thread is not there."""
        with self._lock:
            self._stopping.set()
            self._status = TunnelStatus("stopped")
        self._settled.set()
        self._end_thread()

    # The caller's side of starting and stopping.

    def _wait_settled(self) -> bool:
        while not self._settled.wait(0.05):
            if self._folder is not None:
                self._folder.record_agent()  # an agent that stays silent is in the pid file too
            if time.monotonic() > self._deadline:
                return False
        return True

    def _give_up(self) -> TunnelError:
        error = TunnelTimeoutError(
            f"The {self.kind} agent gave no public URL within {self.settings.timeout_s:g} s. "
            f"{self._timeout_advice()}\n{self.log.quote()}"
        )
        self._fail(error)
        self._stopping.set()
        self._end_thread()
        return error

    def _timeout_advice(self) -> str:
        """What may help after a timeout, from what the agent printed."""
        return "Is this machine online, and does it allow tunnels?"

    def _stopped_while_starting(self) -> TunnelError:
        return TunnelDownError(f"The {self.kind} tunnel was stopped while it started.")

    def _end_thread(self) -> None:
        """Wait for the tunnel thread to end its agent and itself. Call it with `_stopping` set."""
        thread, deadline = self._thread, time.monotonic() + STOP_TIMEOUT_S
        with self._lock:
            folder = self._folder
        if thread is None or folder is None:
            return  # there is no agent, and there will be none
        while thread.is_alive() and time.monotonic() < deadline:
            if not self._opened.is_set():
                folder.kill_agent()  # the thread waits for the agent's answer; nothing else wakes it
            thread.join(0.05)
        if thread.is_alive():
            folder.kill_agent()
            folder.remove()

    # The tunnel thread.

    def _run(self) -> None:
        _running.add(self)
        try:
            sweep_stale_agents(self.settings.state_dir)
            agent = self._find_agent()
            with self._lock:
                if self._stopping.is_set():
                    return
                self._folder = AgentFolder(self.kind, self.settings.state_dir)
            self._open_and_watch(self._folder, agent)
        except Exception as exc:
            self._fail(exc if isinstance(exc, LlmApiKitError) else self._explain(exc))
        finally:
            self._clean_up()
            self._settled.set()
            _running.discard(self)

    def _open_and_watch(self, folder: AgentFolder, agent: Path) -> None:
        process = self._spawn(folder, agent)
        self._process = process
        folder.record_agent()
        name = f"llmapi-kit-tunnel-{self.kind}-log"
        self._reader = threading.Thread(target=self._read, args=(process.stdout,), name=name, daemon=True)
        self._reader.start()
        if self._stopping.is_set():
            return
        public_url = self._connect().rstrip("/")
        self._opened.set()
        with self._lock:
            if not self._stopping.is_set():
                self._status = TunnelStatus("up", public_url)
        self._settled.set()
        while not self._stopping.wait(WATCH_INTERVAL_S):
            returncode = process.poll()
            if returncode is not None:
                self._reader.join(LAST_WORDS_S)
                reason, code = self._explain_exit(returncode)
                self._set_status(TunnelStatus("down", self._status.public_url, reason, code))
                return
        with contextlib.suppress(Exception):  # a courtesy to the provider; the agent is ended next in any case
            self._disconnect()

    def _read(self, stream: IO[str] | None) -> None:
        if stream is None:
            return
        with stream:
            while True:
                try:
                    line = stream.readline()
                except UnicodeDecodeError:  # read on: an agent whose pipe nobody empties would block
                    continue
                if not line:
                    return
                self._heed(line)

    def _heed(self, line: str) -> None:
        """One line that the agent printed. In the thread that reads them."""
        self.log.add(line)

    def _clean_up(self) -> None:
        process, folder = self._process, self._folder
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(TERMINATE_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(TERMINATE_GRACE_S)
        if folder is not None:
            folder.kill_agent()  # it was spawned, but never handed over
            folder.remove()

    # For the kinds.

    def _launch(
        self,
        folder: AgentFolder,
        agent: Path,
        arguments: Sequence[str],
        *,
        drop_variables: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start an agent so that it ends with this thread, prints to `_heed` and is not interrupted with a cell.

        Args:
            folder: of this agent.
            agent: the program.
            arguments: for it; every user of this machine can read them.
            drop_variables: of the environment, which it is not to see.
            variables: further ones, which only this user can read.
        """
        return subprocess.Popen(
            [folder.write_launcher(agent, drop_variables=drop_variables), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, **(variables or {})},
            start_new_session=True,
        )

    def _say(self, line: str) -> None:
        """Tell a person what takes a while."""
        logger.info(line)
        if self.settings.on_progress is not None:
            self.settings.on_progress(line)

    def _explain_spawn(self, exc: Exception) -> TunnelError:
        """The error for an agent that could not even be started."""
        said = self.log.redact(str(exc))
        if isinstance(exc, PermissionError):
            return TunnelError(
                f"The agent could not be started from {self.settings.state_dir}: {said}. If that disk does "
                "not allow programs (a shared drive), choose another state_dir."
            )
        what = f"{type(exc).__name__}: {said}"
        return TunnelError(f"The {self.kind} tunnel could not be opened: {what}\n{self.log.quote()}")

    # State.

    def _is_agent_watched(self) -> bool:
        process = self._process
        is_running = process is not None and process.poll() is None
        return is_running and self._opened.is_set() and not self._stopping.is_set()

    def _set_status(self, status: TunnelStatus) -> None:
        with self._lock:
            if not self._stopping.is_set():
                self._status = status

    def _fail(self, error: LlmApiKitError) -> None:
        """Keep the first error for `start()`, unless it was told to stop."""
        with self._lock:
            if self._error is None and not self._stopping.is_set():
                self._error = error
                self._status = TunnelStatus("down", reason=str(error), code=getattr(error, "code", None))


def _stop_all() -> None:
    for tunnel in list(_running):
        tunnel.stop()


atexit.register(_stop_all)
