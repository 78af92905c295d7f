"""The process behind `llmapi_kit.engines.process.engine.ProcessEngine`: makes an engine, and runs requests on it.

Run as ``main()`` with two arguments: a socket's descriptor and its owner's process id. Ends when the owner does,
however that ends, and whatever is being computed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

from llmapi_kit.engines.base import Engine, SteppingEngine
from llmapi_kit.engines.process.wire import (
    HEADER_BYTES,
    Ask,
    Call,
    Cancel,
    Close,
    Done,
    FromEngine,
    Generate,
    Happened,
    Load,
    Loaded,
    Logged,
    Raised,
    Returned,
    Status,
    Step,
    ToEngine,
    length_of,
    packed,
    portable,
    unpacked,
)
from llmapi_kit.errors import ConfigError
from llmapi_kit.progress import Progress, reporting
from llmapi_kit.types import EngineStats, Readiness

LOGGERS = ("llmapi_kit", "py.warnings")
OWNER_CHECK_S = 1.0

logger = logging.getLogger(__name__)


class Outbox:
    """What goes to the owner: all of one round of the event loop in one message, such as the events of a step.

    Args:
        writer: the socket's.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._messages: list[FromEngine] = []

    def send(self, message: FromEngine) -> None:
        """Send soon; on the event loop."""
        if not self._messages:
            self._loop.call_soon(self._flush)
        self._messages.append(message)

    def send_from_thread(self, message: FromEngine) -> None:
        """The same, from any thread."""
        with suppress(RuntimeError):  # the loop has ended, and so has the owner's interest
            self._loop.call_soon_threadsafe(self.send, message)

    def _flush(self) -> None:
        messages, self._messages = self._messages, []
        self._writer.write(packed(messages))


class OwnersLog(logging.Handler):
    """Hands log lines to the owner.

    Args:
        outbox: where they go.
    """

    def __init__(self, outbox: Outbox) -> None:
        super().__init__(logging.INFO)
        self._outbox = outbox
        self.setFormatter(logging.Formatter("%(message)s"))  # with its traceback

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record's text."""
        try:
            self._outbox.send_from_thread(Logged(record.name, record.levelno, self.format(record)))
        except Exception:  # as `logging` wants it: a line that can't be written harms no work
            self.handleError(record)


class Program:
    """Does what the owner says, until it says `Close` or is gone.

    Args:
        reader: of the socket.
        outbox: what goes back.
    """

    def __init__(self, reader: asyncio.StreamReader, outbox: Outbox) -> None:
        self._reader = reader
        self._outbox = outbox
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._engine: Engine | None = None

    async def run(self) -> None:
        """Load, then serve."""
        load = await self._receive()
        if not isinstance(load, Load):
            raise TypeError(f"the first message is {type(load).__name__}, not Load")
        listening = asyncio.create_task(self._listen())
        try:
            self._engine = await asyncio.to_thread(self._load, load)
        except Exception as exc:
            self._outbox.send(Raised(0, portable(exc)))
            listening.cancel()
            return
        self._outbox.send(Loaded(self._engine.info))
        try:
            await listening
        finally:
            await asyncio.to_thread(self._engine.close)
            await asyncio.wait([*self._tasks.values(), asyncio.create_task(asyncio.sleep(0))])

    async def _listen(self) -> None:
        while not isinstance(message := await self._receive(), Close):
            if self._engine is not None:
                self._take(self._engine, message)
            elif isinstance(message, Ask):
                self._outbox.send(
                    Status(message.call_id, Readiness(False, "The model is being loaded."), EngineStats())
                )

    def _load(self, load: Load) -> Engine:
        try:
            make_engine: Callable[[], Engine] = unpacked(load.make_engine)
        except Exception as exc:
            raise ConfigError(
                f"process=True can't load {load.name!r}: what loads it can't be had in another process ({exc}). Put "
                "its code into a module that can be imported, or load it without process=True."
            ) from exc
        with reporting(self._report):
            return make_engine()

    def _report(self, progress: Progress) -> None:
        self._outbox.send_from_thread(Step(progress.step, progress.done, progress.total, progress.unit))

    def _take(self, engine: Engine, message: ToEngine) -> None:
        if isinstance(message, Generate):
            self._start(message.call_id, self._generate(engine, message))
        elif isinstance(message, Call):
            self._start(message.call_id, self._call(engine, message))
        elif isinstance(message, Ask):
            step_started = engine.step_started() if isinstance(engine, SteppingEngine) else None
            self._outbox.send(Status(message.call_id, engine.readiness(), engine.stats(), step_started))
        elif isinstance(message, Cancel) and message.call_id in self._tasks:
            self._tasks[message.call_id].cancel()

    def _start(self, call_id: int, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks[call_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(call_id))

    async def _generate(self, engine: Engine, message: Generate) -> None:
        try:
            async with aclosing(engine.generate(message.request)) as events:
                async for event in events:
                    self._outbox.send(Happened(message.call_id, event))
        except Exception as exc:
            self._outbox.send(Raised(message.call_id, portable(exc)))
        else:
            self._outbox.send(Done(message.call_id, engine.stats()))

    async def _call(self, engine: Engine, message: Call) -> None:
        try:
            value = await getattr(engine, message.method)(*message.arguments, **message.keywords)
        except Exception as exc:
            self._outbox.send(Raised(message.call_id, portable(exc)))
        else:
            self._outbox.send(Returned(message.call_id, value))

    async def _receive(self) -> ToEngine:
        header = await self._reader.readexactly(HEADER_BYTES)
        message: ToEngine = unpacked(await self._reader.readexactly(length_of(header)))
        return message


async def _serve(connection: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=connection)
    outbox = Outbox(writer)
    log = OwnersLog(outbox)
    for name in LOGGERS:
        logging.getLogger(name).addHandler(log)
    logging.getLogger("llmapi_kit").setLevel(logging.INFO)
    logging.captureWarnings(True)
    with suppress(asyncio.IncompleteReadError, ConnectionError):  # the owner is gone
        await Program(reader, outbox).run()
        await asyncio.sleep(0)  # what is to be sent is written at the end of a round
        await writer.drain()


def main() -> None:
    """Run until the owner says so, or is gone."""
    descriptor, owner = (int(each) for each in sys.argv[1:3])
    _prefer_to_be_killed()
    threading.Thread(target=_end_with_input, daemon=True).start()
    threading.Thread(target=_end_with_owner, args=(owner,), daemon=True).start()
    code = 0
    try:
        asyncio.run(_serve(socket.socket(fileno=descriptor)))
    except BaseException:  # whatever it is, the owner reads its last line
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    os._exit(code)  # what is left to free goes with the process


def _prefer_to_be_killed() -> None:
    """Where memory runs out, the system is to end this process and not the one with the user's work."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def _end_with_input() -> None:
    with suppress(OSError):
        while os.read(0, 1):
            pass
    os._exit(0)


def _end_with_owner(owner: int) -> None:
    """A process that the owner forked may hold the other end of standard input. No event tells of this everywhere."""
    while os.getppid() == owner:
        time.sleep(OWNER_CHECK_S)
    os._exit(0)
