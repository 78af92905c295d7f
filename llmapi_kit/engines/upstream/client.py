"""Sends requests to one upstream, and turns whatever goes wrong into faults."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import httpx

from llmapi_kit.config import Settings
from llmapi_kit.engines.upstream.connections import Connection
from llmapi_kit.engines.upstream.deadline import Deadline, cancel_and_wait
from llmapi_kit.engines.upstream.faults import Translator, UpstreamFault, is_error
from llmapi_kit.engines.upstream.fields import IncompleteError, MalformedError
from llmapi_kit.engines.upstream.key_pool import Key
from llmapi_kit.engines.upstream.response_reader import SilentError, read_json
from llmapi_kit.errors import RequestError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UpstreamClient:
    """Asks one upstream.

    Attributes:
        connection: where it is.
        translator: makes the faults.
        settings: the limits.
    """

    connection: Connection
    translator: Translator
    settings: Settings

    async def open(self, key: Key, path: str, body: Any, deadline: Deadline, limit_s: float) -> httpx.Response:
        """A response of status 2xx, still to be read; closing it is the caller's.

        Raises:
            UpstreamFault: there is none.
            RequestError: the deadline was stopped.
        """
        task = asyncio.ensure_future(self.connection.send(key, path, body))
        try:
            if await deadline.wait(task, limit_s):
                return task.result()
            fault = self.silent(limit_s)
        except RequestError:
            await _discard(task)
            raise
        except asyncio.CancelledError:
            await _discard(task)
            raise
        except Exception as exc:
            fault = self.translator.exception(exc)
            logger.warning("%s, %s: %s", self.translator.provider.name, key.label, self.translator.redacted(exc))
        await _discard(task)
        raise fault

    async def ask(self, key: Key, path: str, body: Any, deadline: Deadline, limit_s: float) -> Any:
        """The JSON of a whole answer.

        Raises:
            UpstreamFault: there is none.
            RequestError: the deadline was stopped.
        """
        response = await self.open(key, path, body, deadline, limit_s)
        try:
            answer = await read_json(response, deadline, limit_s)
        except RequestError:
            raise
        except Exception as exc:
            fault = self.fault_of(exc, limit_s)
        else:
            if not is_error(answer):
                return answer
            fault = self.translator.in_stream(answer)
        raise fault

    def fault_of(self, exc: Exception, limit_s: float) -> UpstreamFault:
        """What it means that reading an answer raised this."""
        if isinstance(exc, UpstreamFault):
            return exc
        if isinstance(exc, SilentError):
            return self.silent(limit_s)
        logger.warning("%s: an answer can't be read: %s", self.translator.provider.name, self.translator.redacted(exc))
        if isinstance(exc, MalformedError):
            return self.translator.unreadable(str(exc))
        if isinstance(exc, IncompleteError):
            return self.translator.broken("ended its answer before it was complete")
        if isinstance(exc, ValueError):  # no JSON, or other JSON than it should be
            return self.translator.broken("sent something that is no answer")
        return self.translator.broken("broke off its answer")

    def silent(self, limit_s: float) -> UpstreamFault:
        """It took too long."""
        return self.translator.silent(f"{self.translator.provider.name} sent nothing for {limit_s:g} s.")


async def _discard(task: asyncio.Task[httpx.Response]) -> None:
    """End a request that nobody waits for any more, and close its response if it has one already."""
    await cancel_and_wait(task)
    if not task.cancelled() and task.exception() is None:
        await task.result().aclose()
