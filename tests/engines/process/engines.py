"""Engines that are made in another process, which has to be able to import them."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time

from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ContextLengthError, GenerationError, MissingDependencyError, ModelTooLargeError
from llmapi_kit.progress import report
from llmapi_kit.types import Failed, Finished


def make_mock(delay_s=0.002, num_tokens=180):
    """One that takes its time, after some progress and a line of a log."""
    report("reading weights", done=1, total=2, unit="B")
    logging.getLogger("llmapi_kit.engines.mock").warning("made in %d", os.getpid())
    return MockEngine(delay_s=delay_s, num_tokens=num_tokens)


def make_once(mark):
    """The first time only: after that there is no memory for it."""
    if mark.exists():
        raise ModelTooLargeError("There is no memory for it now.")
    mark.touch()
    return make_mock()


def fail_to_make():
    raise MissingDependencyError("torch", "torch", "Loading it")


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


class BrokenEngine(MockEngine):
    """Can't say how it is."""

    def readiness(self):
        raise ZeroDivisionError("how it is can't be told")


class FailingEngine(MockEngine):
    """Raises what its prompt says, before or after its first event."""

    async def generate(self, request):
        if request.prompt == "refuse":
            raise ContextLengthError("It is too long.", param="prompt")
        events = super().generate(request)
        yield await anext(events)
        if request.prompt == "fail":
            raise GenerationError("The model failed.", code="broken")
        raise ZeroDivisionError("of nobody's class")


class HangingEngine(MockEngine):
    """Its step for the prompt "hang" never ends, the first time.

    Args:
        mark: a file that tells later times.
    """

    def __init__(self, mark):
        super().__init__()
        self._mark, self._started = mark, None

    def step_started(self):
        return self._started

    async def generate(self, request):
        if request.prompt == "hang" and not self._mark.exists():
            self._mark.touch()
            self._started = time.monotonic()
            await asyncio.Event().wait()
        async for event in super().generate(request):
            yield event


def load_for_long(until):
    """One that is loaded once the test says so."""
    over = threading.Event()
    while not until.exists():
        over.wait(0.01)
    return make_mock()


def fail_to_read():
    raise ZeroDivisionError("read in the wrong process")


class Unreadable:
    """Can be sent, and not be read."""

    def __reduce__(self):
        return fail_to_read, ()


class UnreadableEngine(MockEngine):
    """Its tokens can't be read."""

    async def tokenize(self, text, *, add_special_tokens=False):
        return Unreadable()


async def die_when_all_is_sent():
    for _ in range(10):  # rounds of the event loop, in which the rest is sent
        await asyncio.sleep(0)
    os._exit(3)


class DyingEngine(MockEngine):
    """Says all of its answer, and dies before it says that this was all."""

    async def generate(self, request):
        async for event in super().generate(request):
            if isinstance(event, Finished):
                await die_when_all_is_sent()
            yield event


class DyingLaterEngine(MockEngine):
    """Says that its answer is over, and dies before its stream is."""

    async def generate(self, request):
        async for event in super().generate(request):
            yield event
        await die_when_all_is_sent()


class DyingFailedEngine(MockEngine):
    """Says that its answer failed, and dies before its stream is over."""

    async def generate(self, request):
        events = super().generate(request)
        yield await anext(events)
        yield Failed(GenerationError("The model failed."))
        await die_when_all_is_sent()
