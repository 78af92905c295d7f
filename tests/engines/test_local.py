from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from llmapi_kit.engines.base import GenerationRequest, ToolUse
from llmapi_kit.engines.channel import Channel
from llmapi_kit.errors import ContextLengthError, InvalidRequestError, QueueFullError
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.sampling.tokenizer import ModelTokenizer
from llmapi_kit.types import Accepted, Delta, Failed, Finished, TokenLogprob
from tests.sampling import vocabularies

from .conftest import ask, collect, make_local, wait_until


@pytest.fixture
def local():
    """Makes local engines over the fake runner; all are closed at the end."""
    made = []

    def make(**options):
        made.append(make_local(**options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def refused(engine, request, kind=InvalidRequestError):
    with pytest.raises(kind) as caught:
        asyncio.run(collect(engine.generate(request)))
    return caught.value


def test_answer_and_prompt_must_fit_the_context_together(local):
    engine = local(max_length=10)
    error = refused(engine, ask("a b c d", max_tokens=7), ContextLengthError)
    assert "10 tokens" in error.message
    assert "4 for the prompt" in error.message
    _, events = asyncio.run(collect(engine.generate(ask("a b c d", max_tokens=6))))
    assert events[-1] == Finished("length", 4, 6)


class SentencePieceCodec(ModelTokenizer):
    """With a template that ends right before the answer."""

    def render_chat(self, messages, options):
        return messages[-1]["content"]


@pytest.mark.parametrize(("is_chat", "words"), [(False, [" the", " the"]), (True, ["the", " the"])])
def test_a_completion_goes_on_with_the_prompts_text_and_a_message_is_a_text_of_its_own(local, is_chat, words):
    codec = SentencePieceCodec(vocabularies.sentencepiece())
    the = vocabularies.sentencepiece().convert_tokens_to_ids("▁the")
    request = ask("the name", max_tokens=2, logprobs=1, logit_bias={the: 100})
    if not is_chat:
        request = replace(request, messages=None, prompt="the name", echo=True)
    text, events = asyncio.run(collect(local(codec=codec, vocab_size=1024).generate(request)))
    assert text == ("" if is_chat else "the name") + "".join(words)
    entries = [entry for event in events if isinstance(event, Delta) for entry in event.logprobs]
    assert "".join(entry.text for entry in entries) == text


def test_beams_that_would_take_more_memory_than_there_is_are_refused(local):
    engine = local(num_slots=4, max_length=32, page_size=8, num_pages=4)
    error = refused(engine, replace(ask("a b c d", max_tokens=20), num_beams=2))
    assert error.param == "num_beams"
    assert "up to 24 tokens each" in error.message
    _, events = asyncio.run(collect(engine.generate(replace(ask("a b c d", max_tokens=8), num_beams=2))))
    assert isinstance(events[-1], Finished)


def test_without_max_tokens_the_context_is_the_limit(local):
    _, events = asyncio.run(collect(local(max_length=10).generate(ask("a b c d"))))
    assert events[-1] == Finished("length", 4, 6)


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (GenerationRequest(prompt=[1, 64]), "prompt"),
        (GenerationRequest(prompt=[-1]), "prompt"),
        (GenerationRequest(prompt=[]), "prompt"),
        (GenerationRequest(prompt=""), "prompt"),
        (ask(logit_bias={64: 1.0}), "logit_bias"),
        (ask(stop_token_ids=(99,)), "stop_token_ids"),
    ],
)
def test_token_ids_outside_the_vocabulary_and_empty_prompts_are_refused(local, request_, param):
    assert refused(local(), request_).param == param


def call(arguments):
    return {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}


@pytest.mark.parametrize(
    ("request_", "is_quick"),
    [
        (ask("a b c", max_tokens=1), True),
        (GenerationRequest(prompt="a b c", sampling=SamplingParams(max_tokens=1)), True),
        (GenerationRequest(prompt=[1, 2, 3], sampling=SamplingParams(max_tokens=1)), True),
        (ask("word " * 601, max_tokens=1), False),
        (GenerationRequest(prompt="word " * 601, sampling=SamplingParams(max_tokens=1)), False),
        (GenerationRequest(prompt="a", suffix="b" * 3000, sampling=SamplingParams(max_tokens=1)), False),
        (GenerationRequest(messages=[{"role": "user", "content": "a"}] * 31), False),
        (GenerationRequest(messages=[{"role": "assistant", "content": None, "tool_calls": [call("{}")]}]), False),
        (replace(ask("a"), template_options={"x": 1}), False),
        (replace(ask("a"), tools=ToolUse([])), False),
    ],
)
def test_short_prompts_are_made_on_the_event_loop_and_others_in_a_worker_thread(local, monkeypatch, request_, is_quick):
    engine = local(max_length=500)
    threads = []

    def build(request, adapter):
        threads.append(threading.current_thread())
        raise InvalidRequestError("seen")

    monkeypatch.setattr(engine, "_build", build)
    refused(engine, request_)
    assert [thread is threading.current_thread() for thread in threads] == [is_quick]


def test_steps_of_ones_own_before_the_template_run_in_a_worker_thread(local):
    threads = []

    def prepare(messages):
        threads.append(threading.current_thread())
        return messages

    asyncio.run(collect(local(prepare_messages=prepare).generate(ask("a b c", max_tokens=1))))
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


def test_a_full_queue_refuses(local):
    gate = threading.Event()
    engine = local(num_slots=1, max_queue=1, before_step=lambda items: gate.wait(20))

    async def main():
        taken = [asyncio.create_task(collect(engine.generate(ask(f"q {i}", max_tokens=2)))) for i in range(2)]
        await wait_until(lambda: engine.stats().num_queued + engine.stats().num_running == 2)
        with pytest.raises(QueueFullError):
            await collect(engine.generate(ask("one too many")))
        gate.set()
        return await asyncio.gather(*taken)

    assert all(isinstance(events[-1], Finished) for _, events in asyncio.run(main()))


def test_a_consumer_whose_event_loop_is_gone_frees_its_slot(local):
    engine = local(num_slots=1, max_length=100_000, before_step=lambda items: threading.Event().wait(0.001))

    async def abandon():
        events = engine.generate(ask(max_tokens=90_000))
        await anext(events)
        return events

    loop = asyncio.new_event_loop()
    abandoned = loop.run_until_complete(abandon())
    loop.close()
    _, events = asyncio.run(collect(engine.generate(ask("next", max_tokens=2))))
    assert isinstance(events[-1], Finished)
    assert engine.stats().num_cancelled == 1
    del abandoned


def test_n_answers_compute_their_prompt_once(local):
    engine = local(num_slots=4)
    words = " ".join(f"w{i}" for i in range(50))
    text, events = asyncio.run(collect(engine.generate(replace(ask(words, max_tokens=6), n=4))))
    ends = [event for event in events if isinstance(event, Finished)]
    assert sorted(end.index for end in ends) == [0, 1, 2, 3]
    assert isinstance(events[-1], Finished)
    answers = ["".join(e.text for e in events if isinstance(e, Delta) and e.index == i) for i in range(4)]
    assert len(set(answers)) == 1
    assert text.count(answers[0].split(">")[0]) >= 4
    computed = sum(len(item.tokens) for items in engine.test_runner.steps for item in items)
    assert computed <= 50 + 3 + 4 * 6


def test_all_answers_are_queued_or_none(local):
    gate = threading.Event()
    engine = local(num_slots=1, max_queue=2, before_step=lambda items: gate.wait(20))
    assert refused(engine, replace(ask("four"), n=4), QueueFullError).retry_after_s
    assert engine.stats().num_queued == 0
    gate.set()


def test_leaving_stops_every_answer(local):
    pause = threading.Event()
    engine = local(max_length=10_000, before_step=lambda items: pause.wait(0.005))

    async def main():
        events = engine.generate(replace(ask("a", max_tokens=9000), n=3))
        async for event in events:
            if isinstance(event, Delta):
                break
        await events.aclose()
        await wait_until(lambda: engine.stats().num_running == engine.stats().num_queued == 0)

    asyncio.run(main())
    assert engine.stats().num_cancelled == 3


def test_a_poison_request_fails_alone(local):
    engine = local(num_slots=8, poison=5)

    async def main():
        one_token = SamplingParams(temperature=0, max_tokens=1)
        requests = [GenerationRequest(prompt=[i + 10], sampling=one_token) for i in range(7)]
        requests.append(GenerationRequest(prompt=[5]))
        return await asyncio.gather(*(collect(engine.generate(r)) for r in requests))

    *good, bad = [events[-1] for _, events in asyncio.run(main())]
    assert isinstance(bad, Failed)
    assert all(isinstance(end, Finished) for end in good)


def test_pieces_that_pile_up_come_as_one_and_none_is_lost():
    async def main():
        channel = Channel()
        logprob = TokenLogprob(1, "x", b"x", -1.0)
        events = [
            Accepted(2),
            Delta("a"),
            Delta("b", 1, (logprob,)),
            Delta("c", index=1),
            Delta("d"),
            Finished("stop", 2, 3),
        ]
        for event in events:
            channel.put(event)
        return [await channel.receive() for _ in range(5)]

    accepted, first, second, third, finished = asyncio.run(main())
    assert (first.text, first.num_tokens, len(first.logprobs), first.index) == ("ab", 2, 1, 0)
    assert ((second.text, second.index), (third.text, third.index)) == (("c", 1), ("d", 0))
    assert (accepted, finished) == (Accepted(2), Finished("stop", 2, 3))
