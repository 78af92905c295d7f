"""An engine in a process of its own: a crash ends its requests and not the kernel, and a busy cell does not slow it.

`ProcessEngine` is an `Engine` that passes on what it is asked, and gets a step's events in one message. When the
process dies, each request that ran there ends in one error, and another process is started, later each time.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import Any

from llmapi_kit.engines.base import Engine, GenerationRequest
from llmapi_kit.engines.channel import Ended
from llmapi_kit.engines.process.child import Child
from llmapi_kit.engines.process.connection import Connection
from llmapi_kit.engines.process.counts import Counts
from llmapi_kit.engines.process.watchdog import CALL_ID, Watchdog
from llmapi_kit.engines.process.wire import (
    Ask,
    Close,
    FromEngine,
    Load,
    Loaded,
    Logged,
    Raised,
    Status,
    Step,
    pickled,
)
from llmapi_kit.engines.remote_engine import RemoteEngine
from llmapi_kit.errors import ConfigError, EngineUnavailableError, ModelLoadError
from llmapi_kit.progress import report
from llmapi_kit.switch_interval import shorten_switch_interval
from llmapi_kit.types import (
    EngineInfo,
    EngineStats,
    Event,
    Failed,
    Readiness,
)

STATUS_TIMEOUT_S = 0.5
STEP_TIMEOUT_S = 300.0
SILENT_AFTER_S = 30.0
RESTART_DELAYS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

logger = logging.getLogger(__name__)


class ProcessEngine(RemoteEngine):
    """See `llmapi_kit.engines.base.Engine`. Made when the engine in its process is there.

    Args:
        make_engine: makes the engine, in the other process; picklable.
        name: of the model, for messages.
        restart_delays_s: how long to wait before each start after a death; the last one is for all that follow.
        environment: variables of its process, in place of this one's.
        step_timeout_s: a step that takes longer is taken for one that hangs, and its process is ended; likewise one
            that does not answer for as long. 0 waits for ever.

    Attributes:
        info: that of the engine.

    Raises:
        LlmApiKitError: what making the engine raised.
        ModelLoadError: its process died meanwhile.
        ConfigError: it can't be made in another process.
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        *,
        name: str,
        restart_delays_s: Sequence[float] = RESTART_DELAYS_S,
        environment: Mapping[str, str] | None = None,
        step_timeout_s: float = STEP_TIMEOUT_S,
    ) -> None:
        if os.name != "posix":
            raise ConfigError("process=True needs Linux or macOS. Load the model without it.")
        self._load = Load(_pickled(make_engine, name), name)
        self._name = name
        self._environment = dict(environment or {})
        self._restart_delays_s = restart_delays_s
        self._step_timeout_s = step_timeout_s
        self._call_ids = itertools.count(1)
        self._lock = threading.Lock()
        self._connections: dict[asyncio.AbstractEventLoop, Connection] = {}
        self._answers: dict[int, Future[Status]] = {}
        self._closing = threading.Event()
        self._child: Child | None = None
        self._why_not = ""
        self._counts = Counts()
        child, self.info = self._start()
        self._begin(child)

    @property
    def pid(self) -> int | None:
        """Id of the engine's process; None while there is none."""
        child = self._child
        return child.pid if child is not None else None

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """See `Engine.generate`."""
        connection = self._connection()
        call_id, channel = connection.begin(request)
        is_over, is_begun = False, False
        try:
            while True:
                item = await channel.receive()
                if isinstance(item, Ended):
                    is_over = True
                    if item.error is not None:
                        raise item.error
                    return
                if isinstance(item, Failed) and not is_begun:
                    raise item.error
                is_begun = True
                yield item
        finally:
            connection.finish(call_id, is_over=is_over)

    def readiness(self) -> Readiness:
        """See `Engine.readiness`: not ready while its process is started anew."""
        status = self._status()
        if status is not None:
            return status.readiness
        if self._child is None or self._closing.is_set():
            return Readiness(False, self._why_not)
        silent_s = self._watchdog.silent_s
        if silent_s > min(SILENT_AFTER_S, self._step_timeout_s / 2):
            return Readiness(False, f"The model's process has not answered for {silent_s:.0f} s.")
        return Readiness(True)

    def stats(self) -> EngineStats:
        """See `Engine.stats`: of all its processes. Waits for an answer of the process, half a second at most."""
        self._status()
        return self._counts.total()

    def close(self) -> None:
        """See `Engine.close`: ends the process, and with it everything that it held."""
        with self._lock:
            is_first = not self._closing.is_set()
            self._closing.set()
            child, self._why_not = self._child, "The model was unloaded."
        if child is None or not is_first:
            return
        child.send(Close())
        child.end()

    def _start(self) -> tuple[Child, EngineInfo]:
        """Start a process and wait until its engine is there."""
        child = Child(self._environment)
        self._watchdog = Watchdog(child, self._step_timeout_s)
        try:
            child.send(self._load)
            for messages in child.messages():
                for message in messages:
                    if isinstance(message, Step):
                        report(message.step, done=message.done, total=message.total, unit=message.unit)
                    elif isinstance(message, Logged):
                        _log(message)
                    elif isinstance(message, Status):
                        self._watchdog.heard(message)
                    elif isinstance(message, Raised):
                        raise message.error
                    elif isinstance(message, Loaded):
                        return child, message.info
            raise ModelLoadError(
                f"The process that was to load {self._name!r} died ({child.how_it_ended()}). The memory may be too "
                "small for the model, or its files are damaged."
            )
        except BaseException:  # also an interrupt
            child.kill()
            child.end()
            raise

    def _begin(self, child: Child) -> None:
        """Take a process that has an engine as ours from now on."""
        self._counts.begin(child)
        with self._lock:
            self._child = child
            is_closed = self._closing.is_set()
        threading.Thread(target=self._run, args=(child,), name="llmapi_kit engine process", daemon=True).start()
        if is_closed:
            child.send(Close())

    def _run(self, child: Child) -> None:
        """Of a thread: take what a process says until it ends, and start another one if it was not to end."""
        # A cell that computes would hold each event up by as long, here and in the server's thread
        shorten_switch_interval()
        for messages in child.messages():
            for message in messages:
                self._take(child, message)
        why = child.how_it_ended()
        is_closed = self._closing.is_set()
        text = "The model was unloaded." if is_closed else f"The model's process died ({why}), and is started anew."
        with self._lock:
            self._child, self._why_not = None, text
            connections, self._connections = list(self._connections.values()), {}
            answers, self._answers = self._answers, {}
        self._counts.end(child)
        num_requests = sum(connection.num_requests for connection in connections)
        error = EngineUnavailableError(text, retry_after_s=None if is_closed else 5)
        for connection in connections:
            with suppress(RuntimeError):  # its loop is closed
                connection.loop.call_soon_threadsafe(connection.end, error)
        for future in answers.values():
            with suppress(CancelledError):
                future.set_exception(error)
        if not is_closed:
            logger.error("The process of model %r died (%s) with %d requests", self._name, why, num_requests)
            self._restart()

    def _restart(self) -> None:
        """Start another process, again and again, until there is one or the engine is closed."""
        for attempt in itertools.count():
            delay = self._restart_delays_s[min(attempt, len(self._restart_delays_s) - 1)]
            if self._closing.wait(delay):
                return
            try:
                child, _ = self._start()
            except Exception as exc:
                self._why_not = f"The model's process died, and could not be started anew: {exc}"
                logger.error("Model %r could not be loaded anew: %s", self._name, exc)
            else:
                logger.warning("Model %r was loaded anew in process %d", self._name, child.pid)
                self._begin(child)
                return

    def _take(self, child: Child, message: FromEngine) -> None:
        if isinstance(message, Logged):
            _log(message)
        elif isinstance(message, Status):
            self._counts.heard(child, message.stats)
            if message.call_id == CALL_ID:
                self._watchdog.heard(message)
            with self._lock:
                future = self._answers.pop(message.call_id, None)
            if future is not None and future.set_running_or_notify_cancel():
                future.set_result(message)

    def _connection(self) -> Connection:
        """That of the running event loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            child = self._there()
            if loop not in self._connections:
                for closed in [each for each in self._connections if each.is_closed()]:
                    del self._connections[closed]
                self._connections[loop] = Connection(
                    child, on_done=self._counts.heard, on_lost=self._note_lost, on_end=self._forget
                )
            return self._connections[loop]

    def _note_lost(self, num_finished: int, num_failed: int) -> None:
        if not self._closing.is_set():
            self._counts.lost(num_finished=num_finished, num_failed=num_failed)

    def _forget(self, connection: Connection) -> None:
        with self._lock:
            if self._connections.get(connection.loop) is connection:
                del self._connections[connection.loop]

    def _there(self) -> Child:
        """The process; under the lock.

        Raises:
            EngineUnavailableError: there is none.
        """
        if self._child is None or self._closing.is_set():
            raise EngineUnavailableError(self._why_not, retry_after_s=None if self._closing.is_set() else 5)
        return self._child

    async def _call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Have the engine's method awaited in its process."""
        return await self._connection().call(method, *arguments, **keywords)

    def _status(self) -> Status | None:
        """How the engine is; None where its process does not say so in time."""
        call_id, future = next(self._call_ids), Future[Status]()
        try:
            with self._lock:
                child = self._there()
                self._answers[call_id] = future
            child.send(Ask(call_id))
            return future.result(STATUS_TIMEOUT_S)
        except (FutureTimeoutError, EngineUnavailableError):
            return None
        finally:
            with self._lock:
                self._answers.pop(call_id, None)


def _pickled(make_engine: Callable[[], Engine], name: str) -> bytes:
    try:
        return pickled(make_engine)
    except Exception as exc:
        raise ConfigError(
            f"process=True can't load {name!r}: what loads it can't be sent to another process ({exc}). Put its code "
            "into a module that can be imported, or load it without process=True."
        ) from exc


def _log(message: Logged) -> None:
    logging.getLogger(message.logger).log(message.level, "%s", message.message)
