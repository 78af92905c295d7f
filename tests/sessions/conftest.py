"""Conversations over a real store in memory, and engines that answer without a server."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager

import pytest

from llmapi_kit.config import load_settings
from llmapi_kit.engines.catalog import Catalog
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.sessions.bots import Bots
from llmapi_kit.sessions.conversation import Conversations, Reply
from llmapi_kit.store.store import open_store
from llmapi_kit.types import Accepted, Delta, Failed, Finished, GeneratedImage

OWNER = "0123456789abcdef"


class PlainDispatch:
    """Runs engines as they are; keeps what they were asked."""

    def __init__(self):
        self.requests = []

    async def generate(self, engine, request):
        self.requests.append(request)
        async with aclosing(engine.generate(request)) as events:
            async for event in events:
                if isinstance(event, Failed):
                    raise event.error
                if not isinstance(event, Accepted):
                    yield event

    async def embed(self, engine, text):
        return (await engine.embed([text]))[0].vector

    async def draw(self, engine, request):
        self.requests.append(request)
        return (await engine.generate_images(request))[0]


class Painter(MockEngine):
    """Draws the same picture each time, as a URL or as bytes."""

    def __init__(self, name="painter", url=""):
        super().__init__(name=name)
        self.info = type(self.info)(name, 0, 0, capabilities=("images",))
        self._url = url

    async def generate_images(self, request):
        return [GeneratedImage(url=self._url) if self._url else GeneratedImage(data=b"\x89PNG")]


class Recounting(MockEngine):
    """Replies with how many messages it saw and the last one."""

    async def generate(self, request):
        texts = [message["content"] for message in request.messages]
        async for event in MockEngine(f"{len(texts)}:{texts[-1]}").generate(request):
            yield event


class Waiting(MockEngine):
    """Says one word and then waits until it is told to go on; tells when it got there."""

    def __init__(self, name="mock"):
        super().__init__(name=name)
        self.arrived = asyncio.Event()
        self.go_on = asyncio.Event()

    async def generate(self, request):
        self._stats.num_running += 1
        try:
            yield Accepted(1)
            yield Delta("some")
            self.arrived.set()
            await self.go_on.wait()
            yield Delta("thing")
            yield Finished("stop", 1, 2)
        finally:
            self._stats.num_running -= 1


class Talk:
    """Conversations of one owner, with what a test looks at."""

    def __init__(self, store, engines, bots):
        self.store = store.sessions
        self.dispatch = PlainDispatch()
        self.conversations = Conversations(Catalog(engines), self.store, Bots(bots))

    async def start(self, bot_type="chatgpt", owner=OWNER, **settings):
        return await self.conversations.start(owner, bot_type, settings)

    def ask(self, session, prompt, timeout_s=30.0):
        return self.conversations.ask(session, prompt, timeout_s, self.dispatch)

    async def hear(self, session, prompt, timeout_s=30.0):
        """The pieces and the reply."""
        pieces = []
        async with aclosing(self.ask(session, prompt, timeout_s)) as stream:
            async for piece in stream:
                if isinstance(piece, Reply):
                    return pieces, piece.text
                pieces.append(piece)
        raise AssertionError("no reply")

    async def reply(self, session, prompt, timeout_s=30.0):
        return (await self.hear(session, prompt, timeout_s))[1]

    async def said(self, session):
        return [(turn.role, turn.content) for turn in await self.store.turns(session.owner, session.id)]


@pytest.fixture
def talking():
    """`async with talking(engines…, bots={…}) as talk`."""

    @asynccontextmanager
    async def make(*engines, bots=None, **settings):
        store = open_store(load_settings(database_url="sqlite://", **settings))
        try:
            yield Talk(store, engines or (MockEngine(),), bots or {})
        finally:
            store.close()

    return make


@pytest.fixture
def painter():
    return Painter


@pytest.fixture
def waiting():
    return Waiting


async def filtered(step, pieces):
    """What a reply step lets out of pieces: each time, and at the end."""
    reply = step.reply_filter()
    return [await reply.feed(piece) for piece in pieces] + [await reply.end()]
