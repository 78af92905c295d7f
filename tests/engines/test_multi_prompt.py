"""Several prompts as one request: indices, acceptance, failure and cancellation, over any engine."""

from __future__ import annotations

import asyncio

import pytest

from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.engines.multi_prompt import generate_prompts
from llmapi_kit.errors import ContextLengthError, EngineUnavailableError
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Accepted, Delta, Failed, Finished

from .conftest import collect, make_local, wait_until


def requests_of(*prompts, n=1, **sampling):
    params = SamplingParams(**{"temperature": 0, "max_tokens": 4, **sampling})
    return [GenerationRequest(prompt=prompt, sampling=params, n=n) for prompt in prompts]


def texts_of(events, num):
    return ["".join(e.text for e in events if isinstance(e, Delta) and e.index == i) for i in range(num)]


def test_answers_of_each_prompt_have_its_indices_and_one_acceptance_sums_up():
    async def main():
        return await collect(generate_prompts(MockEngine(), requests_of("a b", "c", "d e f", n=2)))

    _, events = asyncio.run(main())
    assert events[0] == Accepted(6)
    assert sum(isinstance(e, Accepted) for e in events) == 1
    assert texts_of(events, 6) == ["a b", "a b", "c", "c", "d e f", "d e f"]
    assert sorted(e.index for e in events if isinstance(e, Finished)) == list(range(6))


def test_a_prompt_that_is_refused_refuses_all_before_anything_comes_out():
    async def main():
        engine = MockEngine(context_length=4, delay_s=0.001)
        with pytest.raises(ContextLengthError):
            await collect(generate_prompts(engine, requests_of("a", "b c d e f", "g")))
        await wait_until(lambda: engine.stats().num_running == 0)

    asyncio.run(main())


def test_one_failure_ends_all_with_one_event():
    async def main():
        engine = MockEngine(delay_s=0.005, num_tokens=100)
        seen = []
        async for event in generate_prompts(engine, requests_of("a", "b", max_tokens=100)):
            seen.append(event)
            if len(seen) == 6:
                engine.close()
        await wait_until(lambda: engine.stats().num_running == 0)
        return seen

    events = asyncio.run(main())
    assert [type(e) for e in events].count(Failed) == 1
    assert isinstance(events[-1].error, EngineUnavailableError)


def test_leaving_early_stops_every_prompt_and_frees_every_slot():
    async def main():
        engine = make_local(num_slots=3)
        events = generate_prompts(engine, requests_of("a b", "c d", "e f", max_tokens=100))
        async for event in events:
            if isinstance(event, Delta) and engine.stats().num_running == 3:
                break
        await events.aclose()
        await wait_until(lambda: engine.stats().num_running == 0 and engine.stats().num_queued == 0)
        assert sorted(set(engine.test_runner.freed)) == [0, 1, 2]
        engine.close()

    asyncio.run(main())
