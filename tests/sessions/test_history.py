"""What of a history still fits."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ContextLengthError, UnsupportedFieldError
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.sessions.history import fitting_history
from llmapi_kit.sessions.text_tokens import estimate_tokens
from llmapi_kit.store.sessions import Turn

pytestmark = pytest.mark.kernel


class Counting(MockEngine):
    """A token a word, over all messages; counts how often it was asked."""

    def __init__(self, context_length):
        super().__init__(context_length=context_length)
        self.num_asked = 0

    async def tokenize_chat(self, request):
        self.num_asked += 1
        return [0] * sum(len(message["content"].split()) for message in request.messages)


class Guessing(MockEngine):
    """Can't count."""

    async def tokenize_chat(self, request):
        raise UnsupportedFieldError("no tokenizer here")

    tokenize = tokenize_chat


def build(prompt, system="", max_tokens=None):
    def request(history):
        first = [{"role": "system", "content": system}] if system else []
        said = [{"role": turn.role, "content": turn.content} for turn in history]
        messages = [*first, *said, {"role": "user", "content": prompt}]
        return GenerationRequest(messages=messages, sampling=SamplingParams(max_tokens=max_tokens))

    return request


def history_of(*lengths, are_counted=True):
    return [
        Turn(role, f"{i} " * length, length if are_counted else 0)
        for i, length in enumerate(lengths)
        for role in ("user", "assistant")
    ]


def fit(engine, request, history):
    return asyncio.run(fitting_history(engine, request, history))


def test_the_oldest_exchanges_go_first_and_the_answer_keeps_its_room():
    history = history_of(10, 10, 10)
    assert fit(Counting(100), build("x " * 10), history) == history  # 70 of 75
    assert fit(Counting(100), build("x " * 20), history) == history[2:]
    assert fit(Counting(100), build("x " * 40), history) == history[4:]
    assert fit(Counting(100), build("x " * 60), history) == []
    assert fit(Counting(100), build("x " * 20, max_tokens=5), history) == history


def test_the_system_prompt_counts_and_stays():
    history = history_of(10, 10)
    assert fit(Counting(100), build("x " * 30, system="s " * 20), history) == history[2:]


def test_a_prompt_that_does_not_fit_alone_is_refused():
    with pytest.raises(ContextLengthError, match=r"100 tokens; what is said has 130") as caught:
        fit(Counting(100), build("x " * 120, system="s " * 10), history_of(10))
    assert caught.value.param == "content"


def test_no_fixed_context_takes_all():
    history = history_of(10_000)
    assert fit(Counting(0), build("x"), history) == history


@given(st.lists(st.integers(1, 30), max_size=20), st.integers(1, 80), st.booleans(), st.one_of(st.none(), st.just(30)))
def test_as_much_stays_as_fits_and_no_more(lengths, num_prompt, are_counted, max_tokens):
    engine, history = Counting(100), history_of(*lengths, are_counted=are_counted)
    kept = fit(engine, build("x " * num_prompt, max_tokens=max_tokens), history)
    limit = 100 - (max_tokens or 25)
    best = next((i for i in range(len(lengths)) if num_prompt + 2 * sum(lengths[i:]) <= limit), len(lengths))
    assert kept == history[2 * best :]


def test_a_history_of_a_thousand_exchanges_is_not_tokenized_again_and_again():
    engine = Counting(1000)
    kept = fit(engine, build("x"), history_of(*[5] * 1000))
    assert len(kept) == 2 * 74
    assert engine.num_asked <= 10


def test_an_engine_that_can_not_count_is_estimated():
    history = history_of(30, 30, 30)
    kept = fit(Guessing(context_length=140), build("y " * 10), history)
    assert history[-len(kept) :] == kept
    assert 0 < len(kept) < len(history)


@pytest.mark.parametrize("text", ["hello there, how are you today?", "你好世界", "", "x" * 1000])
def test_estimates_are_rather_too_high(text):
    assert estimate_tokens(text) >= len(text.encode()) / 4
