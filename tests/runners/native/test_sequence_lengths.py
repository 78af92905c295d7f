"""Factors for long texts belong to a sequence: each is answered as `generate` answers it, whatever is beside it."""

from __future__ import annotations

import pytest
import torch

from llmapi_kit.checkpoints.low_rank import LowRank
from llmapi_kit.checkpoints.model_decoder import weights_of_model
from llmapi_kit.errors import UnsupportedModelError
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.native.runner import NativeRunner
from llmapi_kit.runners.native.sequence_lengths import ANEW_AT_ONCE, SequenceLengths
from tests.runners.native.families import FOR_LONG_TEXTS, VOCAB, make_family

ORIGINAL = FOR_LONG_TEXTS["original_max_position_embeddings"]
NUM_NEW = 8
# Shorter than the original context, those that cross it as they are answered, and those beyond it
LENGTHS = (20, ORIGINAL - 3, ORIGINAL, ORIGINAL + 1, 2 * ORIGINAL)
PROMPTS = [[(31 * i + length) % VOCAB for i in range(length)] for length in LENGTHS]


class Answers:
    """What `generate` makes of the prompts by itself, and a runner for the same model."""

    def __init__(self, family):
        model = make_family(family)
        self.model = model
        self.runner = NativeRunner(
            weights_of_model(make_family(family)), num_slots=6, max_length=200, dtype=torch.float32
        )
        self.made = [self.generated(prompt) for prompt in PROMPTS]

    def generated(self, prompt):
        """The greedy answer, and the logits of each of its tokens."""
        ids = torch.tensor([prompt])
        made = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NUM_NEW,
            min_new_tokens=NUM_NEW,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return made.sequences[0, len(prompt) :].tolist(), torch.cat(made.logits)

    def answered(self, slot, prompt, logits):
        """Logits of an answer whose first ones are there, token by token."""
        rows = [logits[-1:].clone()]
        for at in range(len(prompt), len(prompt) + NUM_NEW - 1):
            token = [int(rows[-1].argmax())]
            rows.append(self.runner.step([StepItem(slot, at, token, True, num_prompt_tokens=len(prompt))]).clone())
        return torch.cat(rows)


@pytest.fixture(scope="module", params=["phi4 mini with factors for long texts", "llama with factors for long texts"])
def answers(request):
    return Answers(request.param)


def close(got, expected):
    torch.testing.assert_close(got, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def parts(slot, prompt, size, start=0, **options):
    """A prompt in chunks."""
    for begin in range(start, len(prompt), size):
        chunk = prompt[begin : begin + size]
        is_last = begin + size >= len(prompt)
        yield StepItem(slot, begin, chunk, is_last, num_prompt_tokens=len(prompt), **options)


def test_short_and_long_sequences_in_one_step_are_answered_as_by_themselves(answers):
    waiting = {slot: list(parts(slot, prompt, 7 + 5 * slot)) for slot, prompt in enumerate(PROMPTS)}
    made = {slot: [] for slot in waiting}
    while any(len(rows) < NUM_NEW for rows in made.values()):
        items = []
        for slot, prompt in enumerate(PROMPTS):
            if waiting[slot]:
                items.append(waiting[slot].pop(0))
            elif len(made[slot]) < NUM_NEW:
                token, at = int(made[slot][-1].argmax()), len(prompt) + len(made[slot]) - 1
                items.append(StepItem(slot, at, [token], True, num_prompt_tokens=len(prompt)))
        rows = answers.runner.step(items)
        for item, row in zip([each for each in items if each.wants_logits], rows, strict=True):
            made[item.slot].append(row.clone())
    for slot, (_, expected) in enumerate(answers.made):
        close(torch.stack(made[slot]), expected)


@pytest.mark.parametrize("shared", [10, ORIGINAL - 3])
def test_a_prefix_of_a_short_sequence_goes_on_in_a_long_one_and_the_other_way_round(answers, shared):
    short, long = PROMPTS[1], [*PROMPTS[1][:shared], *PROMPTS[4][shared:]]
    for first, then in ((short, long), (long, short)):
        for item in parts(0, first, 50):
            answers.runner.step([item])
        answers.runner.copy_prefix(0, 1, shared)
        logits = torch.empty(0, VOCAB)
        for item in parts(1, [*first[:shared], *then[shared:], 7], 50, start=shared):
            logits = answers.runner.step([item])
        prompt = [*first[:shared], *then[shared:], 7]
        close(answers.answered(1, prompt, logits), answers.generated(prompt)[1])


@pytest.mark.parametrize("num_right", [1, 5, 6])
def test_guesses_that_cross_the_original_context_are_checked_as_if_one_came_after_the_other(answers, num_right):
    """Of 6 guessed tokens so many are right; the others are overwritten by what follows."""
    prompt, (tokens, expected) = PROMPTS[1], answers.made[1]
    for item in parts(2, prompt, 50):
        first = answers.runner.step([item]).clone()
    close(first, expected[:1])
    guessed = [token if at < num_right else (token + 1) % VOCAB for at, token in enumerate(tokens[1:7])]
    beside = StepItem(3, 0, PROMPTS[0], True, num_prompt_tokens=len(PROMPTS[0]))
    item = StepItem(2, len(prompt), [tokens[0], *guessed], True, True, num_prompt_tokens=len(prompt))
    rows = answers.runner.step([beside, item, beside._replace(slot=4)]).clone()
    close(rows[[0, -1]], answers.made[0][1][:1].expand(2, -1))
    close(rows[1 : num_right + 2], expected[1 : num_right + 2])
    for at in range(num_right + 1, NUM_NEW - 1):
        token = StepItem(2, len(prompt) + at, [tokens[at]], True, num_prompt_tokens=len(prompt))
        close(answers.runner.step([token]), expected[at + 1][None])


@pytest.mark.parametrize("length", [ORIGINAL, ORIGINAL + 1])
def test_a_prompts_mean_and_scores_are_those_of_one_pass(answers, length):
    ids = PROMPTS[4][:length]
    with torch.no_grad():
        output = answers.model(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    rows = [
        answers.runner.step([item]).clone()
        for item in parts(5, ids, 30, wants_mean=True)
        for item in [item._replace(wants_logits=True, wants_every=True)]
    ]
    close(torch.cat(rows), output.logits[0])
    mean = torch.nn.functional.normalize(output.hidden_states[-1][0].mean(0), dim=-1)
    close(torch.tensor(answers.runner.mean_state(5)), mean)


def test_what_lost_its_slot_goes_on_as_it_would_have(answers):
    for slot, prompt, (tokens, expected) in zip(range(3), PROMPTS[1:4], answers.made[1:4], strict=True):
        again = [*prompt, *tokens[: NUM_NEW - 2]]
        for item in parts(slot, again, 40):
            answers.runner.step([item._replace(wants_logits=False, num_prompt_tokens=len(prompt))])
        last = StepItem(slot, len(again), [tokens[NUM_NEW - 2]], True, num_prompt_tokens=len(prompt))
        close(answers.runner.step([last]), expected[-1:])


def test_an_adapter_stays_on_what_is_computed_anew(answers):
    generator = torch.Generator().manual_seed(3)
    down, up = torch.randn(2, 64, generator=generator), torch.randn(64, 2, generator=generator)
    answers.runner.add_adapter(1, {"model.layers.0.self_attn.o_proj": LowRank(down, torch.zeros(2), up)})
    prompt = PROMPTS[4]
    whole = answers.runner.step([StepItem(0, 0, prompt, True, adapter=1)]).clone()
    # Nothing says how long the prompt will be
    answers.runner.step([StepItem(1, 0, prompt[:30], False, adapter=1)])
    got = answers.runner.step([StepItem(1, 30, prompt[30:], True, adapter=1)]).clone()
    answers.runner.remove_adapter(1)
    close(got, whole)
    assert not torch.allclose(answers.runner.step([StepItem(0, 0, prompt, True)]), whole, atol=1e-3)


def test_a_long_past_is_computed_anew_in_parts():
    steps = []

    def compute(items, are_long):
        steps.append([(item.start, len(item.tokens), is_long) for item, is_long in zip(items, are_long, strict=True)])
        return torch.zeros(sum(item.wants_logits for item in items), 1)

    lengths = SequenceLengths(1000, starts_anew=True, num_slots=1)
    lengths.step([StepItem(0, 0, [1] * 1000, True, num_prompt_tokens=1000)], compute)
    lengths.step([StepItem(0, 1000, [1], True, num_prompt_tokens=1000)], compute)
    lengths.step([StepItem(0, 1001, [1], True, num_prompt_tokens=1000)], compute)
    anew = [[(0, ANEW_AT_ONCE, True)], [(ANEW_AT_ONCE, 1000 - ANEW_AT_ONCE, True)]]
    assert steps == [[(0, 1000, False)], *anew, [(1000, 1, True)], [(1001, 1, True)]]


def test_wrong_factors_for_long_texts_are_found_out_at_load(monkeypatch):
    weights = weights_of_model(make_family("phi4 mini with factors for long texts"))
    right = weights.rotaries
    calls = []

    def wrong(length, *, is_long=False):
        calls.append(length)
        return right(length, is_long=is_long and len(calls) < 3)  # the reference's are right

    monkeypatch.setattr(weights, "rotaries", wrong)
    with pytest.raises(UnsupportedModelError, match="gives other logits"):
        NativeRunner(weights, num_slots=2, max_length=200, dtype=torch.float32)
