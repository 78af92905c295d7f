"""An engine whose every step is told by the test, and chats with it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

import llmapi_kit as kit
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.types import Accepted, Delta, Finished, ToolCallDelta

DEADLINE_S = 60


class ScriptedEngine(MockEngine):
    """Answers with scripts, one a request: pieces of text, deltas, errors to raise, and `PAUSE`.

    Attributes:
        requests: what was asked.
        has_paused: set at a pause, which lasts until `go_on` is set or the request is cancelled.
    """

    PAUSE = object()

    def __init__(self, *scripts, name="scripted"):
        super().__init__(name=name)
        self._scripts = list(scripts)
        self.requests = []
        self.has_paused, self.go_on, self.was_cancelled = (threading.Event() for _ in range(3))

    async def generate(self, request):
        self.requests.append(request)
        script = self._scripts.pop(0) if self._scripts else ["again"]
        yield Accepted(7)
        reason, num_tokens = "stop", 0
        for piece in script:
            if piece is self.PAUSE:
                await self._pause()
                continue
            if isinstance(piece, Exception):
                raise piece
            delta = Delta(piece) if isinstance(piece, str) else piece
            reason = "tool_calls" if delta.tool_calls else reason
            num_tokens += 1
            yield delta
        yield Finished(reason, 7, num_tokens)

    async def _pause(self):
        self.has_paused.set()
        try:
            while not self.go_on.is_set():  # noqa: ASYNC110 - set from another thread
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.was_cancelled.set()
            raise


class SeeingEngine(ScriptedEngine):
    """One that takes pictures."""

    def __init__(self, *scripts, name="seeing", capabilities=("chat", "vision")):
        super().__init__(*scripts, name=name)
        self.info = replace(self.info, capabilities=capabilities)


def call(name, arguments="{}", index=0):
    """A piece of an answer that calls a function."""
    return Delta("", tool_calls=(ToolCallDelta(index, f"call_{name}_{index}", name, arguments),))


@pytest.fixture
def make_chat():
    """A chat with an engine that answers with scripts, and the engine."""
    chats = []

    def make(*scripts, **options):
        engine = ScriptedEngine(*scripts)
        chats.append(kit.chat(engine, **options))
        return chats[-1], engine

    yield make
    for chat in chats:
        chat.close()
        for session in chat._sessions:
            assert session.wait(DEADLINE_S)
