"""Models that can't share a step: each slot's logits are those of the model alone, whatever stands beside it."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers

from llmapi_kit.errors import ModelLoadError, UnsupportedModelError
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.sequence_runner import SequenceRunner
from llmapi_kit.runners.short_spans import SHORT, short_spans
from tools import model_families

VOCAB = model_families.VOCAB
CLOSE = {"atol": 2e-4, "rtol": 1e-3}
# What its cache can do: be computed in chunks, be cut
FAMILIES = {
    "bloom": (True, True),
    "gpt_neo": (True, True),
    "mamba": (False, False),
    "mamba2": (True, False),
    "recurrent_gemma": (False, False),
    "rwkv": (True, False),
}


def prompt_of(length, seed):
    return torch.randint(3, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request):
    """A model, and what it computes by itself: logits after each token of an answer that is given to it."""
    model = model_families.make_model(model_families.make_config(request.param))
    asked = transformers.GenerationConfig(
        max_new_tokens=4, do_sample=False, pad_token_id=0, return_dict_in_generate=True, output_logits=True
    )

    def alone(ids):
        made = copy.deepcopy(model).generate(torch.tensor([ids]), generation_config=asked)
        return made.sequences[0].tolist(), torch.cat(made.logits)

    return request.param, copy.deepcopy(model), alone


def run(model, **options):
    return SequenceRunner(model, num_slots=3, max_length=64, num_threads=1, **options)


def continued(runner, slot, ids, length):
    """Logits after the prompt and after each token but the last, one step each."""
    steps = [StepItem(slot, 0, ids[:length], True)]
    steps += [StepItem(slot, at, ids[at : at + 1], True) for at in range(length, len(ids) - 1)]
    return torch.cat([runner.step([item]) for item in steps])


def test_slots_by_turns_give_what_generate_gives_and_the_cache_is_known(family):
    name, model, alone = family
    first, second = prompt_of(17, 1), prompt_of(5, 2)
    (one, expected), (other, expected_too) = alone(first), alone(second)
    runner = run(model)
    assert (runner.can_chunk, runner.can_rewind) == FAMILIES[name]
    runner.step([StepItem(2, 0, first[:9], False), StepItem(0, 0, second[:4], False)])
    rows = [runner.step([StepItem(2, 9, first[9:], True), StepItem(0, 4, second[4:], True)])]
    rows += [
        runner.step([StepItem(2, 17 + i, one[17 + i : 18 + i], True), StepItem(0, 5 + i, other[5 + i : 6 + i], True)])
        for i in range(3)
    ]
    answers = torch.stack(rows)
    torch.testing.assert_close(answers[:, 0], expected, **CLOSE)
    torch.testing.assert_close(answers[:, 1], expected_too, **CLOSE)
    runner.close()


def test_a_copied_prefix_a_shorter_one_and_a_repeated_step_compute_the_same(family):
    _, model, alone = family
    ids = prompt_of(14, 3)
    whole, expected = alone(ids)
    runner = run(model)
    runner.step([StepItem(0, 0, prompt_of(9, 4), True)])
    continued(runner, 0, whole, 14)
    runner.copy_prefix(0, 1, 9)
    torch.testing.assert_close(runner.step([StepItem(1, 9, ids[9:], True)])[0], expected[0], **CLOSE)
    runner.free(0)
    torch.testing.assert_close(runner.step([StepItem(0, 9, ids[9:], True)])[0], expected[0], **CLOSE)
    for _ in range(2):
        torch.testing.assert_close(runner.step([StepItem(0, 14, whole[14:15], True)])[0], expected[1], **CLOSE)
    runner.close()


def test_logits_of_every_token_and_means_are_those_of_the_whole_prompt(family):
    _, model, _ = family
    ids = prompt_of(12, 5)
    with torch.inference_mode():
        output = copy.deepcopy(model)(torch.tensor([ids]), output_hidden_states=True)
    runner = run(model)
    runner.step([StepItem(1, 0, ids[:5], False, wants_mean=True)])
    first = runner.step(
        [StepItem(0, 0, ids[:7], True, wants_every=True), StepItem(1, 5, ids[5:], False, wants_mean=True)]
    )
    second = runner.step([StepItem(0, 7, ids[7:], True, wants_every=True)])
    torch.testing.assert_close(torch.cat((first, second)), output.logits[0], **CLOSE)
    mean = output.hidden_states[-1][0].mean(0)
    torch.testing.assert_close(torch.tensor(runner.mean_state(1)), mean / mean.norm(), **CLOSE)
    runner.close()


def test_a_step_that_failed_in_its_middle_is_repeated_from_the_tokens(monkeypatch):
    model = model_families.make_model(model_families.make_config("mamba2"))
    ids = prompt_of(10, 6)
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0, -1]
    runner = run(model)
    runner.step([StepItem(0, 0, ids[:9], True)])
    layer = model.backbone.layers[-1]
    forward = layer.forward

    def fail(*args, **options):
        monkeypatch.setattr(layer, "forward", forward)
        raise RuntimeError("out of luck")

    monkeypatch.setattr(layer, "forward", fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        runner.step([StepItem(0, 9, ids[9:], True)])
    torch.testing.assert_close(runner.step([StepItem(0, 9, ids[9:], True)])[0], expected, **CLOSE)


def test_weights_that_are_no_numbers_are_named_and_not_called_a_matter_of_attention():
    model = model_families.make_model(model_families.make_config("bloom"))
    with torch.no_grad():
        model.transformer.ln_f.weight[3] = torch.nan
    with pytest.raises(ModelLoadError, match=r"BloomForCausalLM: the weight transformer\.ln_f\.weight has values"):
        run(model)


def test_a_model_that_fails_says_how(monkeypatch):
    model = model_families.make_model(model_families.make_config("bloom"))
    monkeypatch.setattr(model, "prepare_inputs_for_generation", lambda *a, **o: {}["no such input"])
    with pytest.raises(UnsupportedModelError, match=r"BloomForCausalLM failed on a first forward pass: KeyError"):
        run(model)


def test_spans_are_short_for_a_while_where_a_sequence_can_outgrow_them():
    model = model_families.make_model(model_families.make_config("mistral"))
    for span, longest, expected in ((20, 64, SHORT), (20, 20, 20), (None, 64, None)):
        model.config.sliding_window = span
        with short_spans(model, longest):
            assert model.config.sliding_window == expected
        assert model.config.sliding_window == span
