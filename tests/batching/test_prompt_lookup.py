"""Guessed tokens change how soon an answer is there, and nothing in it."""

from __future__ import annotations

import pytest

from llmapi_kit.batching.prompt_lookup import FIRST_GUESSED, PAUSE, PromptLookup
from llmapi_kit.runners.fake_runner import FakeRunner

from .conftest import Bench

PROMPT = [9, 4, 7, 1]


class Looping(FakeRunner):
    """What comes next depends on the latest token alone, so that answers repeat themselves."""

    def _next(self, tokens, adapter=0):
        return 1 + (tokens[-1] * 5 + adapter) % 11


class LoopingBench(Bench):
    def __init__(self, monkeypatch, **options):
        monkeypatch.setattr("tests.batching.conftest.FakeRunner", Looping)
        super().__init__(**options)


@pytest.fixture
def loops(monkeypatch):
    """Makes loops over a runner that repeats itself; all are closed at the end."""
    made = []

    def make(**options):
        made.append(LoopingBench(monkeypatch, **options))
        return made[-1]

    yield make
    for each in made:
        each.loop.close()


def answers(bench, *, is_guessing, **params):
    """The whole events of requests of several kinds at once."""
    requests = [
        bench.submit(
            [*PROMPT, index],
            name=f"{is_guessing} {index}",
            request_options={"proposer": PromptLookup([*PROMPT, index])} if is_guessing else None,
            **{"max_tokens": 40 - index, **params},
        )
        for index in range(3)
    ]
    return [(request.output_ids, bench.result(request)) for request in requests]


VARIANTS = {
    "greedy": {},
    "sampled with a seed": {"temperature": 0.9, "seed": 7, "logprobs": 2},
    "with penalties": {"repetition_penalty": 1.2, "frequency_penalty": 0.4, "logprobs": 0},
    "sampled and cut": {"temperature": 1.5, "top_k": 3, "seed": 3},
    "with a stop string": {"stop": ("<11><5><4>",)},
    "ending at a token": {"stop_token_ids": (3,), "min_tokens": 9},
}


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_answers_are_the_same_with_and_without_guesses(loops, variant):
    plain, guessing = loops(), loops()
    expected = answers(plain, is_guessing=False, **VARIANTS[variant])
    assert answers(guessing, is_guessing=True, **VARIANTS[variant]) == expected
    stats = guessing.loop.stats()
    assert stats.num_completion_tokens == plain.loop.stats().num_completion_tokens
    assert 0 <= stats.num_right_guesses <= stats.num_guessed_tokens
    if variant == "greedy":
        assert stats.num_right_guesses > 60
        assert len(guessing.runner.steps) < len(plain.runner.steps) / 2


def test_what_was_guessed_wrongly_is_no_part_of_a_cached_prefix(loops):
    bench = loops()
    first = bench.submit(PROMPT, max_tokens=12, request_options={"proposer": Wrong()})
    bench.result(first)
    assert bench.loop.stats().num_guessed_tokens > bench.loop.stats().num_right_guesses == 0
    longer = [*PROMPT, *first.output_ids, 5, 6]
    again = bench.submit(longer, max_tokens=8)
    bench.result(again)
    assert again.num_cached == len(PROMPT) + 11
    assert again.output_ids == bench.runner.expected(longer, 8)


class Wrong(PromptLookup):
    """Guesses what is never right."""

    def __init__(self):
        super().__init__([])

    def guess(self, limit):
        return [13, 13][:limit]


def test_what_followed_the_same_tokens_is_guessed_up_to_the_limit():
    lookup = PromptLookup([1, 2, 3, 4, 1, 2, 3])
    assert lookup.guess(5) == [4, 1, 2]
    assert lookup.guess(1) == [4]
    assert lookup.guess(0) == []


def test_guesses_grow_while_they_come_true_and_pause_where_they_do_not():
    lookup = PromptLookup(list(range(20)) * 2)
    lengths = []
    for _ in range(5):
        guessed = lookup.guess(100)
        lengths.append(len(guessed))
        lookup.learn(len(guessed), len(guessed))
    assert lengths == [FIRST_GUESSED, 5, 7, 8, 8]
    lookup.learn(8, 2)
    assert len(lookup.guess(100)) == 2
    lookup.learn(2, 0)
    assert lookup.guess(100) == []
    lookup.extend([token_id % 20 for token_id in range(PAUSE)])
    assert len(lookup.guess(100)) == FIRST_GUESSED


def test_the_latest_continuation_is_guessed_and_a_text_without_repetition_is_not():
    assert PromptLookup([1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3]).guess(1) == [8]
    assert PromptLookup(range(50)).guess(4) == []
    assert PromptLookup([]).guess(4) == []
