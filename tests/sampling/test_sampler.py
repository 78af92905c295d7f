from __future__ import annotations

import pytest
import torch
from transformers import TypicalLogitsWarper

from llmapi_kit.errors import InvalidRequestError
from llmapi_kit.sampling.masks import Masks
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.sampling.sampler import SamplerRow, sample

VOCAB = 50


def logits_of(seed, rows=1):
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def row(prompt=(), **params):
    return SamplerRow(SamplingParams(**params), prompt)


def draw_many(logits, num=4000, **params):
    rows = [row(seed=i, **params) for i in range(num)]
    return torch.tensor([s.token_id for s in sample(logits.expand(num, -1), rows)])


def test_greedy_is_argmax_of_each_row():
    logits = logits_of(0, 5)
    assert [s.token_id for s in sample(logits, [row(temperature=0) for _ in range(5)])] == logits.argmax(-1).tolist()


def test_frequencies_follow_the_softmax_at_the_temperature():
    logits = logits_of(1)
    for temperature in (0.5, 1.0, 2.0):
        counts = torch.bincount(draw_many(logits, temperature=temperature), minlength=VOCAB) / 4000
        assert (counts - (logits[0] / temperature).softmax(-1)).abs().max() < 0.035


def test_top_k_keeps_the_k_most_likely():
    logits = logits_of(2)
    drawn = set(draw_many(logits, top_k=3, temperature=2.0).tolist())
    assert drawn == set(logits[0].topk(3).indices.tolist())


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    logits = logits_of(3)
    probs, ids = logits[0].softmax(-1).sort(descending=True)
    num_kept = int((probs.cumsum(-1) < 0.7).sum()) + 1
    assert set(draw_many(logits, top_p=0.7).tolist()) == set(ids[:num_kept].tolist())


def test_min_p_drops_tokens_below_a_share_of_the_best():
    logits = logits_of(4)
    probs = logits[0].softmax(-1)
    kept = set((probs >= 0.2 * probs.max()).nonzero()[:, 0].tolist())
    assert set(draw_many(logits, min_p=0.2).tolist()) == kept


def test_tiny_top_p_still_keeps_the_best_token():
    logits = logits_of(5)
    assert set(draw_many(logits, num=50, top_p=1e-9).tolist()) == {int(logits.argmax())}


def test_tiny_temperature_is_greedy_and_finite():
    logits = logits_of(6)
    assert set(draw_many(logits, num=50, temperature=1e-12).tolist()) == {int(logits.argmax())}


def test_same_seed_gives_same_tokens_whatever_runs_beside_it():
    logits = logits_of(7)
    alone, in_batch = row(seed=42), row(seed=42)
    others = [row(seed=9, top_k=2), row(temperature=0), row(repetition_penalty=1.3, prompt=[1, 2])]
    first = [sample(logits, [alone])[0].token_id for _ in range(20)]
    second = []
    for step in range(20):
        batch = [*others[: step % 4], in_batch]
        second.append(sample(logits.expand(len(batch), -1), batch)[-1].token_id)
    assert first == second
    assert len(set(first)) > 1


def test_different_seeds_and_no_seed_differ():
    logits = torch.zeros(1, VOCAB)

    def text(**params):
        one = row(**params)
        return [sample(logits, [one])[0].token_id for _ in range(12)]

    assert text(seed=1) != text(seed=2)
    assert text() != text()
    assert text(seed=-5) == text(seed=-5)


def test_a_failed_step_draws_the_same_number_again():
    one = row(seed=3)
    assert one.uniform() == one.uniform()
    before = one.uniform()
    one.add(5)
    assert one.uniform() != before


def test_typical_p_keeps_what_the_warper_of_transformers_keeps():
    logits = logits_of(11)
    for mass in (0.2, 0.6, 0.95):
        kept = TypicalLogitsWarper(mass)(torch.zeros(1, 1), logits.clone())[0] > -torch.inf
        drawn = draw_many(logits, typical_p=mass).unique()
        assert kept[drawn].all()
        likely = kept & (logits[0].softmax(-1) > 0.01)
        assert set(likely.nonzero().flatten().tolist()) <= set(drawn.tolist())


def test_tiny_typical_p_still_keeps_a_token():
    assert len(draw_many(logits_of(12), num=50, typical_p=1e-6).unique()) == 1


def test_min_tokens_keeps_the_end_out_until_there_are_as_many():
    logits = torch.tensor([[3.0, 2.0, 1.0]])
    one = row(temperature=0, min_tokens=2)
    one.ending_ids = frozenset({0, 1})
    assert [sample(logits, [one])[0].token_id for _ in range(3)] == [2, 2, 0]
    beside = row(temperature=0)
    one.num_drawn = 0
    assert [s.token_id for s in sample(logits.expand(2, -1), [one, beside])] == [2, 0]


def test_repetition_penalty_counts_prompt_and_answer():
    logits = torch.tensor([[2.0, 1.9, -1.0, 0.0]])
    one = row(prompt=[0], temperature=0, repetition_penalty=2.0)
    assert sample(logits, [one])[0].token_id == 1  # 0 was in the prompt: 2.0 / 2 < 1.9
    assert sample(logits, [one])[0].token_id == 0  # both seen now: 1.0 against 0.95


def test_negative_logits_are_multiplied_by_the_repetition_penalty():
    logits = torch.tensor([[-1.0, -1.5]])
    assert sample(logits, [row(prompt=[0], temperature=0, repetition_penalty=2.0)])[0].token_id == 1


@pytest.mark.parametrize("penalty", [1e-30, 1e-224, 5e-324])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_tiny_repetition_penalty_allows_no_token_that_is_not_allowed(penalty, temperature):
    """It was 0 in float32, and a token that a grammar forbids came out: a 500."""
    blocked = torch.zeros(1, VOCAB, dtype=torch.bool)
    blocked[0, :40] = True
    masks = Masks([0], blocked, {})
    seen = row(range(45), temperature=temperature, repetition_penalty=penalty, seed=1)
    chosen = [sample(logits_of(seed), [seen], masks)[0].token_id for seed in range(10)]
    assert all(token >= 40 for token in chosen), chosen


def test_presence_and_frequency_penalties_count_the_answer_only():
    logits = torch.tensor([[1.0, 0.7, 0.0]])
    one = row(prompt=[0, 0, 0], temperature=0, presence_penalty=0.5)
    assert [sample(logits, [one])[0].token_id for _ in range(3)] == [0, 1, 0]
    one = row(temperature=0, frequency_penalty=0.2)
    assert [sample(logits, [one])[0].token_id for _ in range(4)] == [0, 0, 1, 0]


def test_logit_bias_bans_and_forces():
    logits = logits_of(8)
    best = int(logits.argmax())
    banned = sample(logits, [row(temperature=0, logit_bias={best: -100})])[0].token_id
    forced = sample(logits, [row(logit_bias={7: 100})])[0].token_id
    assert banned == int(logits[0].topk(2).indices[1])
    assert forced == 7


def test_settings_of_one_row_do_not_reach_another():
    logits = logits_of(9).expand(3, -1)
    before = logits.clone()
    best = int(logits[0].argmax())
    rows = [row(temperature=0), row(temperature=0, logit_bias={best: -100}), row(temperature=0, logprobs=2)]
    tokens = [s.token_id for s in sample(logits, rows)]
    assert tokens[0] == tokens[2] == best != tokens[1]
    assert torch.equal(logits, before)


def test_logprobs_are_those_of_the_raw_logits():
    logits = logits_of(10)
    sampled = sample(logits, [row(temperature=0.3, top_k=2, logit_bias={4: 50}, logprobs=3, seed=0)])[0]
    expected = logits[0].log_softmax(-1)
    assert sampled.logprob == pytest.approx(float(expected[sampled.token_id]), abs=1e-5)
    assert [token_id for token_id, _ in sampled.top] == expected.topk(3).indices.tolist()
    assert [p for _, p in sampled.top] == pytest.approx(expected.topk(3).values.tolist(), abs=1e-5)


def test_logprobs_only_where_asked_for():
    sampled = sample(logits_of(11, 2), [row(temperature=0), row(temperature=0, logprobs=0)])
    assert sampled[0].logprob is None
    assert sampled[1].logprob is not None
    assert sampled[1].top == ()


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("presence_penalty", 3),
        ("frequency_penalty", float("inf")),
        ("max_tokens", -1),
        ("logprobs", 21),
        ("seed", 2**63),
        ("stop", tuple("abcdefghijklmnopq")),
        ("min_tokens", -1),
        ("typical_p", 0),
        ("typical_p", 1.1),
        ("stop", ("",)),
        ("logit_bias", {1: 101}),
        ("logit_bias", dict.fromkeys(range(1025), 1.0)),
    ],
)
def test_out_of_range_values_are_refused_by_name(param, value):
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParams(**{param: value})
    assert caught.value.param == param
    assert param in caught.value.message
