"""Guessed tokens with a real model: the same answers, in fewer steps."""

from __future__ import annotations

import asyncio

import pytest

from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.config import load_settings
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.errors import ConfigError
from llmapi_kit.loading.load_request import make_engine, resolve
from llmapi_kit.sampling.parameters import SamplingParams
from tests.engines.conftest import collect

PROMPTS = ("The cat sat on the mat. The dog sat on the rug. " * 4, "你好" * 9, "What is the capital of France?")


def answers(engine, **params):
    async def all_at_once():
        sampling = SamplingParams(max_tokens=60, ignore_eos=True, **params)
        requests = [GenerationRequest(prompt=prompt, sampling=sampling) for prompt in PROMPTS]
        return await asyncio.gather(*(collect(engine.generate(request)) for request in requests))

    return [text for text, _ in asyncio.run(all_at_once())]


@pytest.mark.parametrize("native", [True, False], ids=["in C", "in torch"])
def test_answers_of_the_pocket_model_are_the_same_with_guesses(native, pocket_engine):
    engine = make_engine(parse_spec("pocket"), load_settings(draft="prompt-lookup", native=native), device="cpu")
    try:
        for params in ({"temperature": 0}, {"temperature": 0.7, "seed": 3, "top_p": 0.9}):
            assert answers(engine, **params) == answers(pocket_engine, **params)
        stats = engine.stats()
        assert stats.num_right_guesses > 30
    finally:
        engine.close()


def test_a_way_to_guess_that_there_is_none_of_is_refused():
    with pytest.raises(ConfigError, match="draft"):
        resolve("pocket", given={"draft": "eagle"})
