"""An engine without a model that takes its time as one does: slots, a cost a token, and a cache of prompts' beginnings.

It sleeps in place of computing, so that many of them share a core.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator

from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.engines.prefix_affinity import BLOCK, block_keys
from llmapi_kit.types import Accepted, Delta, Event, Finished

CHARACTERS_PER_TOKEN = 4
TOKENS_PER_BLOCK = BLOCK // CHARACTERS_PER_TOKEN


class TimedEngine(MockEngine):
    """See the module.

    Args:
        num_slots: requests at once.
        step_s: of a token.
        block_s: to read `TOKENS_PER_BLOCK` tokens of a prompt that are not cached.
        num_blocks: that the cache holds.
    """

    def __init__(self, *, num_slots: int, step_s: float, block_s: float, num_blocks: int) -> None:
        super().__init__(name="timed")
        self._slots = asyncio.Semaphore(num_slots)
        self._step_s = step_s
        self._block_s = block_s
        self._num_blocks = num_blocks
        self._cached: OrderedDict[bytes, None] = OrderedDict()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """See `Engine.generate`: so many words as the request allows."""
        keys = block_keys(request)
        num_prompt_tokens = len(keys) * TOKENS_PER_BLOCK
        yield Accepted(num_prompt_tokens)
        async with self._slots:
            num_cached = self._read(keys)
            await asyncio.sleep((len(keys) - num_cached) * self._block_s)
            num_tokens = request.sampling.max_tokens or 1
            for _ in range(num_tokens):
                await asyncio.sleep(self._step_s)
                yield Delta(" word")
        yield Finished("length", num_prompt_tokens, num_tokens, num_cached * TOKENS_PER_BLOCK)

    def _read(self, keys: list[bytes]) -> int:
        """How many of a prompt's blocks were cached, from its beginning; all are from now on."""
        num_cached = next((index for index, key in enumerate(keys) if key not in self._cached), len(keys))
        for key in keys:
            self._cached[key] = None
            self._cached.move_to_end(key)
        while len(self._cached) > self._num_blocks:
            self._cached.popitem(last=False)
        return num_cached


class TimedBatch(MockEngine):
    """One whose requests make each step together, as in a GPU's batch, however many there are.

    Args:
        name: of the model.
        step_s: how long a step takes.
    """

    def __init__(self, *, name: str, step_s: float) -> None:
        super().__init__(name=name)
        self._step_s = step_s
        self._step: asyncio.Future[None] | None = None

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """See `Engine.generate`: so many words as the request allows."""
        num_prompt_tokens, num_tokens = len(block_keys(request)) * TOKENS_PER_BLOCK, request.sampling.max_tokens or 1
        yield Accepted(num_prompt_tokens)
        for _ in range(num_tokens):
            if self._step is None or self._step.done():
                loop = asyncio.get_running_loop()
                self._step = loop.create_future()
                loop.call_later(self._step_s, self._step.set_result, None)
            await asyncio.shield(self._step)
            yield Delta(" word")
        yield Finished("length", num_prompt_tokens, num_tokens, 0)
