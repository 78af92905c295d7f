"""Responses that are made in the background: their clients may leave, poll them, and follow their events at any time.

On the server's event loop. A run ends with its response stored; one that a server leaves behind when it is killed is
told by its age.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmapi_kit.api.openai.answer_collector import ChatAnswer
from llmapi_kit.api.openai.generation import Generation
from llmapi_kit.api.responses.events import EventWriter, ResponseStreamFormat
from llmapi_kit.api.responses.response import UNFINISHED
from llmapi_kit.api.sse import LastFrame
from llmapi_kit.errors import EngineUnavailableError, GenerationError, StoreError
from llmapi_kit.store.stored_completion import encode
from llmapi_kit.store.stored_response import StoredResponse

if TYPE_CHECKING:
    from llmapi_kit.store.responses import ResponseStore  # it brings SQLAlchemy

logger = logging.getLogger(__name__)


class ResponseRun:
    """One response that is made in the background.

    Args:
        generation: accepted by its engine.
        writer: of its events; those it has are known to whoever asked for it.
        stored: as it was stored when it was accepted.
        store: where it is stored when it ends.
    """

    def __init__(
        self, generation: Generation, writer: EventWriter, stored: StoredResponse, store: ResponseStore
    ) -> None:
        self.owner = stored.owner
        self._generation = generation
        self._writer = writer
        self._stored = stored
        self._store = store
        self._num_told = len(writer.frames)
        self._response: Mapping[str, Any] = dict(writer.response)
        self._news = asyncio.Event()
        self._is_given_up = False
        self.task = asyncio.ensure_future(self._work())

    @property
    def response(self) -> Mapping[str, Any]:
        """As it is now; complete once that is stored."""
        return self._response

    async def follow(self, after: int) -> AsyncGenerator[bytes, None]:
        """Its events from the one after number `after` on, up to its end."""
        index = after + 1
        while True:
            is_over = self.task.done()
            news = self._news
            if index < self._num_told:
                yield b"".join(self._writer.frames[index : self._num_told])
                index = self._num_told
            elif is_over:
                yield LastFrame()
                return
            else:
                await news.wait()

    async def cancel(self) -> None:
        """Give it up, unless it is complete, and wait until what became of it is stored."""
        if self._writer.response["status"] in UNFINISHED:
            self._is_given_up = True
            self.task.cancel()
        await asyncio.wait({self.task})

    async def _work(self) -> None:
        try:
            await self._make()
        except asyncio.CancelledError:
            if self._is_given_up:
                self._writer.cancel()
            else:
                self._writer.fail(EngineUnavailableError("The server was stopped."))
            await self._keep()
        except Exception:  # nobody waits for this task: whoever asks for the response later is told
            logger.exception("The response %s failed", self._stored.id)
            self._writer.fail(GenerationError("The server failed on this response; its log has the details."))
            await self._keep()
        finally:
            await self._generation.close()
            self._tell()

    async def _make(self) -> None:
        async def keep(answers: list[ChatAnswer]) -> None:
            self._writer.complete(self._generation.usage())
            await self._keep()

        chunks = ResponseStreamFormat(self._writer, self._generation)
        async for _ in self._generation.stream(chunks, include_usage=False, on_complete=keep):
            self._tell()
        if self._writer.response["status"] == "failed":
            await self._keep()

    async def _keep(self) -> None:
        """Store what became of it."""
        events = pack(self._writer.frames)
        changed = replace(self._stored, body=encode(self._writer.response), events=events)
        try:
            await self._store.change(changed)
        except StoreError:
            if self._writer.response["status"] not in ("failed", "cancelled"):
                raise
            logger.exception("%s ended, which could not be stored", self._stored.id)

    def _tell(self) -> None:
        self._num_told = len(self._writer.frames)
        self._response = dict(self._writer.response)
        news, self._news = self._news, asyncio.Event()
        news.set()


class ResponseRuns:
    """The responses that a server makes in the background now."""

    def __init__(self) -> None:
        self._runs: dict[str, ResponseRun] = {}

    def add(self, response_id: str, run: ResponseRun) -> None:
        """One that has begun; it is forgotten when it ends."""
        self._runs[response_id] = run
        run.task.add_done_callback(lambda task: self._ended(response_id, task))

    def find(self, owner: str, response_id: str) -> ResponseRun | None:
        """The owner's run of this response, if it still runs."""
        run = self._runs.get(response_id)
        return run if run is not None and run.owner == owner else None

    def _ended(self, response_id: str, task: asyncio.Task[None]) -> None:
        del self._runs[response_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("The response %s failed", response_id, exc_info=error)


def pack(frames: list[bytes]) -> bytes:
    """Events as they are stored."""
    return zlib.compress(b"".join(frames))


def unpack(events: bytes) -> list[bytes]:
    """Stored events, one frame each."""
    return [frame + b"\n\n" for frame in zlib.decompress(events).split(b"\n\n")[:-1]]
