"""Several requests answered as one: the prompts of one completion call, side by side in the engine's queue.

Works with any engine. Runs on the caller's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from llmapi_kit.engines.base import Engine, GenerationRequest
from llmapi_kit.types import Accepted, Delta, Event, Failed, Finished


def generate_prompts(engine: Engine, requests: Sequence[GenerationRequest]) -> AsyncGenerator[Event, None]:
    """Answer all requests at once; the answers of request i have the indices from i * n on.

    One `Accepted` comes when all are accepted, with the sum of their tokens; one `Failed` ends all.

    Raises:
        RequestError: one was not accepted; the others were stopped.
    """
    return engine.generate(requests[0]) if len(requests) == 1 else _merge(engine, requests)


async def _merge(engine: Engine, requests: Sequence[GenerationRequest]) -> AsyncGenerator[Event, None]:
    events: asyncio.Queue[Event | BaseException] = asyncio.Queue()

    async def pump(request: GenerationRequest, offset: int) -> None:
        generator = engine.generate(request)
        try:
            async for event in generator:
                if isinstance(event, Delta | Finished):
                    events.put_nowait(replace(event, index=offset + event.index))
                else:
                    events.put_nowait(event)
        except Exception as exc:
            events.put_nowait(exc)
        finally:
            await generator.aclose()

    num_answers = sum(request.n for request in requests)
    offsets = [sum(request.n for request in requests[:i]) for i in range(len(requests))]
    tasks = [asyncio.create_task(pump(*pair)) for pair in zip(requests, offsets, strict=True)]
    early: list[Event] = []  # what the first ones answer before the last one is accepted
    num_accepted = num_prompt_tokens = 0
    try:
        while num_answers:
            arrived = await events.get()
            if isinstance(arrived, BaseException):
                raise arrived
            event = arrived
            if isinstance(event, Accepted):
                num_accepted += 1
                num_prompt_tokens += event.num_prompt_tokens
                if num_accepted < len(requests):
                    continue
                ready: list[Event] = [Accepted(num_prompt_tokens), *early]
            elif num_accepted < len(requests) and not isinstance(event, Failed):
                early.append(event)
                continue
            else:
                ready = [event]
            for each in ready:
                num_answers -= isinstance(each, Finished)
                yield each
            if isinstance(event, Failed):
                return
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
