"""Guessed tokens with a real model: the same answers, in fewer steps."""

from __future__ import annotations

import asyncio
import json

import pytest

from llmapi_kit.batching.draft_pace import DraftPace
from llmapi_kit.checkpoints.spec import POCKET_DIR, parse_spec
from llmapi_kit.config import load_settings
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.errors import ConfigError, UnsupportedModelError
from llmapi_kit.loading.load_request import make_engine, resolve
from llmapi_kit.sampling.parameters import SamplingParams
from tests.engines.conftest import collect

pytestmark = pytest.mark.slow

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


@pytest.mark.parametrize("native", [True, False], ids=["in C", "in torch"])
def test_answers_of_the_pocket_model_are_the_same_with_a_draft_model(native, pocket_engine, monkeypatch):
    # A draft as large as the model is no gain, and would be given up at once
    monkeypatch.setattr(DraftPace, "best_length", lambda self, rate, most, num_streams: most)
    settings = load_settings(draft="pocket", draft_tokens=5, native=native)
    engine = make_engine(parse_spec("pocket"), settings, device="cpu")
    try:
        for params in ({"temperature": 0}, {"temperature": 0.9, "seed": 3, "top_p": 0.9, "presence_penalty": 0.5}):
            assert answers(engine, **params) == answers(pocket_engine, **params)
        stats = engine.stats()
        assert stats.num_guessed_tokens > 200
        assert stats.num_right_guesses > 0.97 * stats.num_guessed_tokens  # rounding may choose otherwise
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("draft", "error", "message"),
    [
        ("eagle", ConfigError, "draft is 'eagle'; it must be 'prompt-lookup', 'off', or the folder or hub name"),
        ("mock", UnsupportedModelError, "draft='mock' can't draft"),
        ("openai:gpt-4o-mini", UnsupportedModelError, "can't draft"),
        ("hf:owner/name:Q4_K_M", UnsupportedModelError, "can't draft"),
        ("pocket-embed", UnsupportedModelError, "without an output layer"),
    ],
)
def test_what_can_not_guess_is_refused_before_anything_loads(draft, error, message):
    with pytest.raises(error, match=message):
        resolve("pocket", given={"draft": draft})


def test_a_draft_with_another_vocabulary_is_refused_by_name(tmp_path):
    for file in POCKET_DIR.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[500:502]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    tokenizer["model"]["merges"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    request = resolve("pocket", given={"draft": tmp_path})
    with pytest.raises(UnsupportedModelError, match="another vocabulary than pocket"):
        request.make()


def test_memory_for_a_draft_model_is_reckoned_with():
    plain, drafted = resolve("pocket").need(), resolve("pocket", given={"draft": "pocket"}).need()
    assert drafted.least_bytes == 2 * plain.least_bytes
    assert plain.most_bytes < drafted.most_bytes < 2 * plain.most_bytes
