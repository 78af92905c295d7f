"""A draft model changes how soon an answer is there, and nothing in it."""

from __future__ import annotations

import pytest

from llmapi_kit.batching.draft_model import FIRST_PAUSE, DraftModel, DraftProposer
from llmapi_kit.batching.draft_pace import DraftPace
from llmapi_kit.runners.fake_runner import FakeRunner
from tests.batching.conftest import text_of

PROMPT = [9, 4, 7, 1]


class Eager(DraftPace):
    """Drafts as much as it may."""

    def best_length(self, rate, most, num_streams):
        return most


class OftenWrong(FakeRunner):
    """Finds what the model does, but for two tokens in five."""

    def _next(self, tokens, adapter=0):
        return super()._next(tokens, adapter) if sum(tokens) % 5 > 1 else 1


def make_draft(runner=None, **options):
    return DraftModel(runner or FakeRunner(), **{"vocab_size": 64, "pace": Eager(), **options})


def submit(bench, prompt=PROMPT, *, most=4, **options):
    return bench.submit(prompt, request_options={"proposer": DraftProposer(most, Eager())}, **options)


def answers(bench, *, is_drafting, **params):
    """The whole events of requests of several lengths at once."""
    requests = []
    for index in range(3):
        asked = {"max_tokens": 40 - index, "name": f"{is_drafting} {index}", **params}
        prompt = [*PROMPT * (1 + 9 * index), index]
        requests.append(submit(bench, prompt, **asked) if is_drafting else bench.submit(prompt, **asked))
    return [(request.output_ids, bench.result(request)) for request in requests]


VARIANTS = {
    "greedy": {},
    "sampled with a seed": {"temperature": 0.9, "seed": 7, "logprobs": 2},
    "with penalties": {"repetition_penalty": 1.2, "frequency_penalty": 0.4, "logprobs": 0},
    "sampled and penalised": {"temperature": 1.1, "seed": 2, "presence_penalty": 0.7, "min_tokens": 4},
    "sampled and cut": {"temperature": 1.5, "top_k": 3, "seed": 3, "ignore_eos": True},
    "with a stop string": {"stop": ("<11><5><4>",)},
    "ending at a token": {"stop_token_ids": (3,), "min_tokens": 9},
}


@pytest.mark.parametrize("variant", sorted(VARIANTS))
@pytest.mark.parametrize("kind", [FakeRunner, OftenWrong])
def test_answers_are_the_same_with_and_without_a_draft(bench, variant, kind):
    plain, drafting = bench(), bench(draft=make_draft(kind()), step_tokens=24)
    expected = answers(plain, is_drafting=False, **VARIANTS[variant])
    assert answers(drafting, is_drafting=True, **VARIANTS[variant]) == expected
    stats = drafting.loop.stats()
    assert stats.num_completion_tokens == plain.loop.stats().num_completion_tokens
    assert stats.num_guessed_tokens >= stats.num_right_guesses > 0
    if kind is FakeRunner:
        is_ended = "stop" in variant or "ending" in variant
        assert is_ended or stats.num_right_guesses == stats.num_guessed_tokens, (
            "a draft that is the model guessed wrong"
        )
        assert len(drafting.runner.steps) < len(plain.runner.steps) * (1 if is_ended else 0.5)


@pytest.mark.parametrize("kind", [FakeRunner, OftenWrong])
@pytest.mark.parametrize("seed", range(4))
def test_answers_are_the_same_where_memory_runs_out_and_requests_lose_their_slots(bench, seed, kind):
    room = {"num_slots": 5, "max_length": 48, "page_size": 4, "num_pages": 20}
    tight = bench(**room, step_tokens=8 * (seed + 1), draft=make_draft(kind(**{**room, "num_pages": 60})))
    stem = [seed + 1] * 8
    sent = [
        (submit(tight, prompt := [*stem, *range(1, index + 2)], max_tokens=24, name=str(index)), prompt)
        for index in range(10)
    ]
    for request, prompt in sent:
        assert tight.result(request)[0] == text_of(tight.runner.expected(prompt, 24))
    stats = tight.loop.stats()
    assert stats.num_preemptions > 0
    assert stats.num_right_guesses > 0


def test_a_draft_that_is_often_wrong_is_right_sometimes(bench):
    b = bench(draft=make_draft(OftenWrong()))
    b.result(submit(b, max_tokens=100))
    stats = b.loop.stats()
    assert 0.2 < stats.num_right_guesses / stats.num_guessed_tokens < 0.8


def test_the_draft_takes_over_no_more_of_a_prompt_than_the_model_does(bench):
    draft = FakeRunner()
    b = bench(draft=make_draft(draft))
    for salt in ("ada", "bob", "bob"):
        b.result(
            b.submit(
                PROMPT * 12, name=salt * 3, request_options={"proposer": DraftProposer(2, Eager()), "cache_salt": salt}
            )
        )
        b.wait_for(lambda: not b.loop.stats().num_running)
    starts = [item.start for step in draft.steps for item in step if len(item.tokens) > 8 or item.start == 47]
    assert starts[:2] == [0, 0], "what another key asked was taken over"


def test_prompts_that_begin_alike_are_computed_once_by_the_draft_too(bench):
    draft = FakeRunner(num_slots=3)
    b = bench(num_slots=3, draft=make_draft(draft))
    requests = [submit(b, PROMPT * 20 + [index], name=str(index)) for index in range(3)]
    for request in requests:
        b.result(request)
    assert [request.output_ids for request in requests] == [
        b.runner.expected(request.prompt_ids, 8) for request in requests
    ]
    assert sum(len(item.tokens) for step in draft.steps for item in step) < 200


def test_a_long_prompt_is_computed_in_parts_by_the_draft(bench):
    draft = FakeRunner()
    b = bench(draft=make_draft(draft, step_tokens=16), step_tokens=64)
    request = submit(b, PROMPT * 40)
    b.result(request)
    assert request.output_ids == b.runner.expected(PROMPT * 40, 8)
    assert max(sum(len(item.tokens) for item in step) for step in draft.steps) == 16


def test_a_draft_that_fails_costs_nothing_but_the_draft(bench):
    draft = FakeRunner(poison=7)
    b = bench(num_slots=1, draft=make_draft(draft))
    request = submit(b)
    assert b.result(request)[1].reason == "length"
    assert request.output_ids == b.runner.expected(PROMPT, 8)
    assert len(draft.recovered) == 1
    assert request.proposer is None
    again = submit(b, [*PROMPT[:3], 2], name="again", max_tokens=20)
    b.result(again)
    assert again.output_ids == b.runner.expected([*PROMPT[:3], 2], 20)


def test_the_context_of_a_draft_may_be_shorter(bench):
    draft = FakeRunner(max_length=20)
    b = bench(draft=make_draft(draft))
    long, longer = submit(b, max_tokens=40, name="long"), submit(b, PROMPT * 6, max_tokens=10, name="longer")
    for request in (long, longer):
        b.result(request)
        assert request.output_ids == b.runner.expected(request.prompt_ids, len(request.output_ids))
    assert 0 < b.loop.stats().num_guessed_tokens <= 17


@pytest.mark.parametrize("width", [40, 90])
def test_a_draft_with_fewer_or_more_spare_rows_guesses_what_the_model_knows(bench, width):
    draft = FakeRunner(vocab_size=width)
    b = bench(draft=make_draft(draft))
    prompts = [[1, last, index] for index, last in enumerate((63, 30, 20))]
    requests = [submit(b, ids, temperature=1, seed=1, max_tokens=30, ignore_eos=True) for ids in prompts]
    for request in requests:
        assert b.result(request)[1].reason == "length"
    assert b.loop.stats().num_guessed_tokens > 0
    assert all(token < width for step in draft.steps for item in step for token in item.tokens)


def test_beams_embeddings_and_grammars_go_on_beside_a_draft(bench):
    b = bench(num_slots=4, draft=make_draft())
    beams = b.submit_beams(PROMPT, 2, max_tokens=6)
    drafted = submit(b, [3, 3, 3], max_tokens=30)
    b.result(beams)
    b.result(drafted)
    assert drafted.output_ids == b.runner.expected([3, 3, 3], 30)


def test_a_cancelled_request_leaves_its_slot_to_the_next(bench):
    b = bench(num_slots=1, draft=make_draft(FakeRunner(num_slots=1)))
    first = submit(b, max_tokens=200, name="first")
    b.wait_for(lambda: b.events(first))
    b.loop.abort(first)
    second = submit(b, [*PROMPT, 5], name="second")
    b.result(second)
    assert second.output_ids == b.runner.expected([*PROMPT, 5], 8)


def paced(*, draft_s, step_s, token_s):
    pace = DraftPace()
    pace.drafted(1, draft_s)
    for num_tokens in (1, 5, 1, 9, 1):
        pace.checked(num_tokens, step_s + token_s * num_tokens)
    return pace


def test_more_is_drafted_the_cheaper_the_draft_is_and_the_more_comes_true():
    cheap, dear = paced(draft_s=1, step_s=20, token_s=0.1), paced(draft_s=5, step_s=20, token_s=0.1)
    lengths = [cheap.best_length(rate, 8, 1) for rate in (0.02, 0.5, 0.8, 1)]
    assert lengths == sorted(lengths)
    assert lengths[0] == 0
    assert lengths[-1] == 8
    assert dear.best_length(0.5, 8, 1) < cheap.best_length(0.5, 8, 1)


def test_nothing_is_drafted_where_that_is_slower_whatever_comes_true():
    as_large = paced(draft_s=20, step_s=20, token_s=0)
    assert as_large.best_length(1, 8, 1) == 0
    busy = paced(draft_s=0.1, step_s=20, token_s=19)  # each token is as good as a step
    assert busy.best_length(0.7, 8, 1) > 0
    assert busy.best_length(0.7, 8, 32) == 0


def test_before_anything_is_measured_some_tokens_are_drafted():
    assert DraftPace().best_length(0.75, 4, 1) == 4


def test_a_request_begins_with_what_others_learned():
    pace = paced(draft_s=3, step_s=10, token_s=0)
    first = DraftProposer(8, pace)
    assert first.num_wanted(1) > 0
    for _ in range(60):
        first.learn(4, 0)
    assert DraftProposer(8, pace).num_wanted(1) == 0
    for _ in range(60):
        first.learn(4, 4)
    assert DraftProposer(8, pace).num_wanted(1) > 4


def test_a_request_pauses_where_its_draft_does_not_pay_and_tries_again_later():
    proposer = DraftProposer(4, paced(draft_s=1, step_s=10, token_s=0))
    assert proposer.num_wanted(1) > 0
    for _ in range(40):
        proposer.learn(4, 0)
    assert proposer.num_wanted(1) == 0
    waited = []
    for _ in range(3):
        num = 0
        while not proposer.num_wanted(1):
            proposer.extend([1])
            num += 1
        waited.append(num)
    assert waited == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    for _ in range(40):
        proposer.learn(1, 1)
    proposer.extend([1] * 1000)
    assert proposer.num_wanted(1) == 4
