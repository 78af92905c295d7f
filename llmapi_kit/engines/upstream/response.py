"""One answer on its way from an upstream: believed when its first piece is there, and read to its end.

Runs on the event loop of whoever asked.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable
from typing import Any, Protocol

from llmapi_kit.engines.upstream.client import UpstreamClient
from llmapi_kit.engines.upstream.deadline import Deadline
from llmapi_kit.engines.upstream.faults import is_error
from llmapi_kit.engines.upstream.key_pool import Key
from llmapi_kit.engines.upstream.response_reader import LAST_PART_S, ResponseReader, SilentError
from llmapi_kit.engines.upstream.stream_parser import StreamParser
from llmapi_kit.errors import RequestError
from llmapi_kit.types import Delta, Event

logger = logging.getLogger(__name__)

# A response that began well is believed after this, so that a model which thinks for long counts as accepted.
BELIEVED_AFTER_S = 1.0
USAGE_S = 5.0  # between the last piece and the usage


class UpstreamAnswer(Protocol):
    """What was accepted. Close it whatever happens."""

    def events(self) -> AsyncGenerator[Event, None]:
        """`Delta`, then `Finished`.

        Raises:
            UpstreamFault: it ended in an error.
        """
        ...

    async def aclose(self) -> None:
        """Stop it, and leave the connection."""
        ...


async def begin_answer(
    client: UpstreamClient, key: Key, path: str, body: dict[str, Any], deadline: Deadline, reader: StreamParser
) -> UpstreamAnswer:
    """Ask for an answer and wait until it has begun well.

    Raises:
        UpstreamFault: it has not.
        RequestError: the deadline was stopped.
    """
    if not body.get("stream"):
        whole = await client.ask(key, path, body, deadline, client.settings.total_timeout_s)
        return WholeAnswer(client, whole, reader)
    response = await client.open(key, path, body, deadline, client.settings.upstream_answer_s)
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "text/html":
        await response.aclose()
        logger.warning("%s answered with a page", client.translator.provider.name)
        raise client.translator.broken("answered with something that is not a stream")
    answer = StreamedAnswer(client, ResponseReader(response, deadline), reader)
    try:
        await answer.begin()
    except BaseException:
        await answer.aclose()
        raise
    return answer


class StreamedAnswer:
    """An answer that comes piece by piece."""

    def __init__(self, client: UpstreamClient, chunks: ResponseReader, reader: StreamParser) -> None:
        self._client = client
        self._chunks = chunks
        self._reader = reader
        self._first: list[Delta] = []

    async def begin(self) -> None:
        """Wait for the first chunk, for a moment.

        Raises:
            UpstreamFault: it is not an answer.
        """
        try:
            self._first = self._read(await self._chunks.next(BELIEVED_AFTER_S))
            return
        except SilentError:
            return
        except RequestError:
            raise
        except Exception as exc:
            fault = self._client.fault_of(exc, BELIEVED_AFTER_S)
        raise fault

    async def events(self) -> AsyncGenerator[Event, None]:
        """See `UpstreamAnswer.events`."""
        limit_s = self._client.settings.first_token_timeout_s
        fault = None
        deltas: list[Delta] | None = self._first
        while deltas is not None:
            for delta in deltas:
                limit_s = self._client.settings.upstream_silence_s
                yield delta
            try:
                deltas = await self._next(limit_s)
            except RequestError:
                raise
            except Exception as exc:
                fault = self._client.fault_of(exc, limit_s)
                break
        if fault is not None:
            raise fault
        for event in _end(self._reader):
            yield event

    async def aclose(self) -> None:
        """See `UpstreamAnswer.aclose`."""
        await self._chunks.aclose()

    async def _next(self, limit_s: float) -> list[Delta] | None:
        """What the next chunk brings; None at the end. Nothing that goes wrong after complete answers spoils them.

        Raises:
            Exception: it did not come, or can't be read.
        """
        if self._reader.is_complete and not self._reader.went_on:
            limit_s = LAST_PART_S if self._reader.has_usage else USAGE_S
        try:
            chunk = await self._chunks.next(limit_s)
            if chunk is None and self._reader.is_complete:
                return None
            return self._read(chunk)
        except Exception as exc:
            if not self._reader.is_complete:
                raise
            logger.debug("The end of a stream: %s", type(exc).__name__)
            return None

    def _read(self, chunk: Any) -> list[Delta]:
        """What a chunk brings.

        Raises:
            UpstreamFault: it is an error.
            ValueError: it is not a chunk, or the stream ended too early.
        """
        if chunk is None:
            self._reader.finish()  # raises
            return []
        if is_error(chunk):
            raise self._client.translator.in_stream(chunk)
        return list(self._reader.read(chunk, is_whole=self._chunks.is_whole))


class WholeAnswer:
    """An answer that came in one piece."""

    def __init__(self, client: UpstreamClient, answer: Any, reader: StreamParser) -> None:
        self._client = client
        self._reader = reader
        try:
            self._deltas = list(reader.read(answer, is_whole=True))
            self._last = list(_end(reader))
        except ValueError as exc:
            fault = client.fault_of(exc, 0)
        else:
            return
        raise fault

    async def events(self) -> AsyncGenerator[Event, None]:
        """See `UpstreamAnswer.events`."""
        for event in (*self._deltas, *self._last):
            yield event

    async def aclose(self) -> None:
        """There is nothing left to stop."""


def _end(reader: StreamParser) -> Iterable[Event]:
    return (*reader.uncounted(), *reader.finish())
