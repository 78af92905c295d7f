"""The process behind `llmapi_kit.engines.process.engine.ProcessEngine`: makes an engine, and runs requests on it.

Run as ``main()`` with two arguments: a socket's descriptor and its owner's process id. Standard input is a socket, too,
by which further ones come, one for each event loop that asks. Ends when the owner does, however that ends, and whatever
is being computed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from llmapi_kit.engines.base import Engine, SteppingEngine
from llmapi_kit.engines.process.caller import Caller, Outbox, received
from llmapi_kit.engines.process.wire import (
    Ask,
    Close,
    Load,
    Loaded,
    Logged,
    Raised,
    Status,
    Step,
    portable,
    unpacked,
)
from llmapi_kit.errors import ConfigError
from llmapi_kit.forwarded_log import ForwardedLog
from llmapi_kit.progress import Progress, reporting
from llmapi_kit.types import EngineStats, Readiness

OWNER_CHECK_S = 1.0


class Program:
    """Does what the owner says, until it says `Close` or is gone.

    Args:
        reader: of the socket.
        outbox: what goes back.
    """

    def __init__(self, reader: asyncio.StreamReader, outbox: Outbox) -> None:
        self._reader = reader
        self._outbox = outbox
        self._callers: set[Caller] = set()
        self._engine: Engine | None = None

    async def run(self) -> None:
        """Load, then serve."""
        load = await received(self._reader)
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
            await asyncio.gather(*(caller.finish() for caller in self._callers))

    def connect(self, descriptor: int) -> None:
        """Serve one more of the owner's event loops."""
        task = asyncio.create_task(self._serve(socket.socket(fileno=descriptor)))
        task.add_done_callback(_end_if_failed)

    async def _serve(self, connection: socket.socket) -> None:
        if self._engine is None:
            raise RuntimeError("nobody connects before the engine is there")
        reader, writer = await asyncio.open_connection(sock=connection)
        caller = Caller(self._engine, reader, Outbox(writer))
        self._callers.add(caller)
        try:
            await caller.serve()
        finally:
            self._callers.discard(caller)

    async def _listen(self) -> None:
        while not isinstance(message := await received(self._reader), Close):
            if isinstance(message, Ask):
                self._outbox.send(self._status(message.call_id))

    def _status(self, call_id: int) -> Status:
        engine = self._engine
        if engine is None:
            return Status(call_id, Readiness(False, "The model is being loaded."), EngineStats())
        step_started = engine.step_started() if isinstance(engine, SteppingEngine) else None
        return Status(call_id, engine.readiness(), engine.stats(), step_started)

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


async def _serve(connection: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=connection)
    outbox = Outbox(writer)
    ForwardedLog(lambda *line: outbox.send_from_thread(Logged(*line))).install()
    program = Program(reader, outbox)
    loop = asyncio.get_running_loop()
    threading.Thread(target=_watch_door, args=(loop, program.connect), daemon=True).start()
    with suppress(asyncio.IncompleteReadError, ConnectionError):  # the owner is gone
        await program.run()
        await outbox.sent()


def main() -> None:
    """Run until the owner says so, or is gone."""
    descriptor, owner = (int(each) for each in sys.argv[1:3])
    _prefer_to_be_killed()
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


def _watch_door(loop: asyncio.AbstractEventLoop, connect: Callable[[int], None]) -> None:
    """Of a thread: take the connections that come by standard input, and end the process when that ends."""
    door = socket.socket(fileno=0)
    with suppress(OSError):
        while (came := socket.recv_fds(door, 1, 1))[0]:
            for descriptor in came[1]:
                os.set_inheritable(descriptor, False)
                loop.call_soon_threadsafe(connect, descriptor)
    os._exit(0)


def _end_if_failed(task: asyncio.Task[None]) -> None:
    """What one event loop said can't be read, and it waits for an answer: all of them get an error by this."""
    if not task.cancelled() and (error := task.exception()) is not None:
        traceback.print_exception(error)
        sys.stderr.flush()
        os._exit(1)


def _end_with_owner(owner: int) -> None:
    """A process that the owner forked may hold the other end of standard input. No event tells of this everywhere."""
    while os.getppid() == owner:
        time.sleep(OWNER_CHECK_S)
    os._exit(0)
