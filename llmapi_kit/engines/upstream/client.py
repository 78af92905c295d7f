"""The HTTP side of one upstream: sends requests, and turns whatever goes wrong into faults.

A pool of connections belongs to the event loop it was made on, and an engine is asked from several: there is a client
for each. The openai client does addresses, authentication and status codes; it neither retries nor follows redirections
here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import httpx
import openai

from llmapi_kit.cancellation import cancel_and_wait
from llmapi_kit.checkpoints.providers import Provider
from llmapi_kit.config import Settings
from llmapi_kit.engines.upstream.deadline import Deadline
from llmapi_kit.engines.upstream.faults import FaultTranslator, UpstreamFault, is_error
from llmapi_kit.engines.upstream.fields import IncompleteError, MalformedError
from llmapi_kit.engines.upstream.key_pool import Key
from llmapi_kit.engines.upstream.response_reader import SilentError, read_json
from llmapi_kit.errors import RequestError
from llmapi_kit.loopback import LOOPBACK

AZURE_API_VERSION = "2024-10-21"
# What the openai client sends unasked, from variables that are meant for OpenAI.
OPENAI_HEADERS = ("openai-organization", "openai-project")


class Connection:
    """Where one upstream answers, and the clients that ask it.

    Args:
        provider: how to speak with it.
        base_url: where it answers.
        connect_s: until a connection stands.
    """

    def __init__(self, provider: Provider, base_url: str, connect_s: float) -> None:
        self._provider = provider
        self._base_url = base_url
        self._connect_s = connect_s
        self._lock = threading.Lock()
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopClient] = WeakKeyDictionary()

    @property
    def root(self) -> str:
        """The base URL without ``/v1``, where vLLM's own routes are."""
        return self._base_url.removesuffix("/v1")

    async def send(self, key: Key, path: str, body: Any) -> httpx.Response:
        """Send a request; its response has status 200 to 299 and is still to be read, and closed.

        Raises:
            openai.OpenAIError: it failed, or the status says so.
        """
        client = await self._client(key)
        # Asked for a response, it gives that, whatever the class of a stream would be
        response: Any = await client.post(
            path, cast_to=httpx.Response, body=body, stream=True, stream_cls=openai.AsyncStream[Any]
        )
        return cast(httpx.Response, response)

    def close(self) -> None:
        """Close the connections, each on its loop. From any thread; does not wait."""
        with self._lock:
            clients = list(self._clients.items())
            self._clients.clear()
        for loop, client in clients:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and what it held with it
                loop.call_soon_threadsafe(client.end)

    async def _client(self, key: Key) -> openai.AsyncOpenAI:
        loop = asyncio.get_running_loop()
        with self._lock:
            client = self._clients.get(loop)
            if client is None:
                client = self._clients[loop] = _LoopClient(self._make)
        await client.live()
        return client.with_key(key)

    def _make(self, key: Key) -> openai.AsyncOpenAI:
        """A client for the running event loop."""
        host = urlsplit(self._base_url).hostname or ""
        http_client = openai.DefaultAsyncHttpxClient(
            follow_redirects=False,  # the key would go along
            trust_env=host not in LOOPBACK,  # no proxy stands between us and this machine
            timeout=openai.Timeout(None, connect=self._connect_s),  # the other limits are `Deadline`'s
            event_hooks={"request": [self._drop_headers(key)]},
        )
        options: dict[str, Any] = {"api_key": key.reveal() or "none", "max_retries": 0, "http_client": http_client}
        if self._provider.name == "azure":
            version = os.environ.get("OPENAI_API_VERSION", AZURE_API_VERSION)
            return openai.AsyncAzureOpenAI(azure_endpoint=self._base_url, api_version=version, **options)
        return openai.AsyncOpenAI(base_url=self._base_url, **options)

    def _drop_headers(self, key: Key) -> Callable[[Any], Awaitable[None]]:
        is_azure = self._provider.name == "azure"  # it has a header of its own
        dropped = {"authorization"} if is_azure or not key.reveal() else set()
        if self._provider.name not in ("openai", "azure"):
            lines = os.environ.get("OPENAI_CUSTOM_HEADERS", "").splitlines()
            dropped |= {*OPENAI_HEADERS, *(line.partition(":")[0].strip().lower() for line in lines)} - {""}

        async def drop(request: Any) -> None:
            for name in dropped:
                request.headers.pop(name, None)

        return drop


class _LoopClient:
    """The client of one event loop; ends with the loop, where that is shut down in an orderly way.

    Event loops close asynchronous generators that are under way when they end: `_life` is one for that reason.
    """

    def __init__(self, make: Callable[[Key], openai.AsyncOpenAI]) -> None:
        self._make = make
        self._client: openai.AsyncOpenAI | None = None
        self._with_key: dict[Key, openai.AsyncOpenAI] = {}
        self._life = self._live()
        self._lives = False
        self._ending: asyncio.Future[None] | None = None

    async def live(self) -> None:
        if not self._lives:
            self._lives = True
            await self._life.__anext__()

    def with_key(self, key: Key) -> openai.AsyncOpenAI:
        """A client that sends this key, over the connections that all keys share."""
        if self._client is None:
            self._client = self._make(key)
        if key not in self._with_key:
            self._with_key[key] = self._client.with_options(api_key=key.reveal() or "none")
        return self._with_key[key]

    def end(self) -> None:
        """Close it; on its loop."""
        self._ending = asyncio.ensure_future(self._life.aclose())

    async def _live(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            if self._client is not None:
                await self._client.close()


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
    translator: FaultTranslator
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
            return self.translator.broken("sent something that is not an answer")
        return self.translator.broken("broke off its answer")

    def silent(self, limit_s: float) -> UpstreamFault:
        """It took too long."""
        return self.translator.silent(f"{self.translator.provider.name} sent nothing for {limit_s:g} s.")


async def _discard(task: asyncio.Task[httpx.Response]) -> None:
    """End a request that nobody waits for any more, and close its response if it has one already."""
    await cancel_and_wait(task)
    if not task.cancelled() and task.exception() is None:
        await task.result().aclose()
