"""What every engine promises, checked on each of them."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from llmapi_kit.engines.base import Engine, GenerationRequest
from llmapi_kit.errors import ContextLengthError, EngineUnavailableError
from llmapi_kit.types import Accepted, Delta, Failed, Finished

from .conftest import ask, check_order, collect, wait_until


def test_it_is_an_engine(engine):
    assert isinstance(engine, Engine)


def test_events_come_in_order_with_one_end(engine):
    text, events = asyncio.run(collect(engine.generate(ask(max_tokens=7))))
    check_order(events)
    assert text
    assert events[-1] == Finished("length", events[0].num_prompt_tokens, 7)
    assert sum(e.num_tokens for e in events if isinstance(e, Delta)) == 7


def test_prompts_are_text_or_token_ids(engine):
    for prompt in ("one two", [3, 4]):
        request = GenerationRequest(prompt=prompt, sampling=ask(max_tokens=3).sampling)
        _, events = asyncio.run(collect(engine.generate(request)))
        assert events[0] == Accepted(2)


def test_too_long_a_prompt_is_refused_before_it_is_queued(engine):
    async def main():
        with pytest.raises(ContextLengthError) as caught:
            await collect(engine.generate(ask("word " * 9000)))
        return caught.value

    error = asyncio.run(main())
    assert (error.param, error.code) == ("messages", "context_length_exceeded")
    assert engine.stats().num_queued == engine.stats().num_running == 0


def test_many_at_once_get_what_each_gets_alone(engine):
    questions = [f"question {i} " * (1 + i % 5) for i in range(12)]

    async def main():
        alone = [(await collect(engine.generate(ask(q, max_tokens=9))))[0] for q in questions]
        together = await asyncio.gather(*(collect(engine.generate(ask(q, max_tokens=9))) for q in questions))
        return alone, [text for text, _ in together]

    alone, together = asyncio.run(main())
    assert alone == together
    assert len(set(alone)) > 1


def test_closing_the_generator_stops_the_generation(engine):
    async def main():
        events = engine.generate(ask(max_tokens=180))
        async for event in events:
            if isinstance(event, Delta):
                break
        await events.aclose()
        await wait_until(lambda: engine.stats().num_running == 0)
        assert engine.stats().num_cancelled == 1

    asyncio.run(main())


def test_cancelling_the_task_stops_the_generation(engine):
    async def main():
        task = asyncio.create_task(collect(engine.generate(ask(max_tokens=180))))
        await wait_until(lambda: engine.stats().num_running == 1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await wait_until(lambda: engine.stats().num_running == 0)

    asyncio.run(main())


def test_closing_the_engine_ends_requests_in_an_error(engine):
    async def main():
        events = engine.generate(ask("a b c " * 10, max_tokens=150, ignore_eos=True))
        seen = [await anext(events), await anext(events)]
        await asyncio.to_thread(engine.close)
        return seen + [event async for event in events]

    seen = asyncio.run(main())
    check_order(seen)
    assert isinstance(seen[-1], Failed | Finished)
    assert not engine.readiness().ready
    assert engine.readiness().reason


def test_a_closed_engine_takes_nothing(engine):
    engine.close()
    engine.close()
    with pytest.raises(EngineUnavailableError):
        asyncio.run(collect(engine.generate(ask())))


def test_one_engine_serves_several_event_loops_at_once(engine):
    async def both():
        def in_own_loop(question):
            return asyncio.run(collect(engine.generate(ask(question, max_tokens=5))))[0]

        return await asyncio.gather(*(asyncio.to_thread(in_own_loop, q) for q in ("a b", "c d", "a b")))

    first, second, third = asyncio.run(both())
    assert first == third != second


def test_tokenize_gives_ids(engine):
    ids = asyncio.run(engine.tokenize("one two"))
    assert len(ids) == 2
    assert all(isinstance(i, int) for i in ids)
