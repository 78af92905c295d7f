"""Engines that are made in replicas. Sent there by value, so that replicas need not be able to import them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ModelTooLargeError
from llmapi_kit.types import Accepted, Delta, Finished


def make_mock(options=None):
    """One that takes its time. All have the same numbers for the words of the contract's tests, as models do."""
    made = TellingMock(delay_s=0.002, num_tokens=180)
    made._words = {"one": 0, "two": 1}
    return made


def make_slow_mock(options=None):
    """One whose streams cost little, so that many share two cores."""
    return TellingMock(delay_s=0.05, num_tokens=60)


def fail_to_make(options):
    raise ModelTooLargeError("There is no memory for it.")


async def until(condition):
    """Wait for it, for minutes."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never was")


SLOWLY_S = 0.05


class TellingMock(MockEngine):
    """Says which process it is, or stops after its first word until a file is there, or is slow, where it is asked to.

    It makes the file itself where whoever asked it to leaves.
    """

    async def generate(self, request):
        words = str(request.messages[-1]["content"] if request.messages else request.prompt).split()
        if words[-1:] == ["who?"]:
            yield Accepted(len(words))
            yield Delta(str(os.getpid()))
            yield Finished("stop", len(words), 1)
            return
        gate = Path(words[1]) if words[:1] == ["wait-for"] else None
        num_deltas, is_over = 0, False
        try:
            async for event in super().generate(request):
                num_deltas += isinstance(event, Delta)
                if gate is not None and num_deltas == 2:
                    await until(gate.exists)
                if words[:1] == ["slowly"] and isinstance(event, Delta):
                    await asyncio.sleep(SLOWLY_S)
                yield event
            is_over = True
        finally:
            if gate is not None and not is_over:
                gate.touch()
