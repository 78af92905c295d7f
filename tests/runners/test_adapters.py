"""LoRA adapters beside a model's weights: each row of a step as PEFT computes it, whichever runner computes it."""

from __future__ import annotations

import pytest
import torch
import transformers

from llmapi_kit.checkpoints.adapter_files import find_adapter
from llmapi_kit.checkpoints.low_rank import read_low_rank
from llmapi_kit.errors import ModelLoadError, UnsupportedModelError
from llmapi_kit.runners.base import AdapterRunner, StepItem
from llmapi_kit.runners.torch_runner import TorchRunner
from tests.checkpoints.lora_files import ALL_LINEAR, by_peft, save_adapter, tiny

KINDS = {"native": {}, "lean": {"native": False}, "modules": {"lean": False}}
PROMPTS = [[(31 * i + 7 * j) % 60 for i in range(9 + 3 * j)] for j in range(4)]
VARIANTS = {
    "every projection": {"target_modules": ALL_LINEAR},
    "rank-stabilised, another rank": {"target_modules": ["k_proj", "up_proj"], "use_rslora": True, "r": 6},
    "ranks of their own": {
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "rank_pattern": {"v_proj": 2, "layers.1.self_attn.q_proj": 5},
        "alpha_pattern": {"v_proj": 32, "^model.layers.0.mlp.down_proj": 1},
    },
    "biases of its own": {"target_modules": ["o_proj", "gate_proj"], "lora_bias": True},
}
# What is more than a sum
MORE_VARIANTS = {
    "decomposed": {"target_modules": ALL_LINEAR, "use_dora": True},
    "decomposed, and an output layer": {
        "target_modules": ["q_proj", "down_proj"],
        "use_dora": True,
        "modules_to_save": ["lm_head"],
    },
    "embedding and output layer": {"target_modules": ["v_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Number of the adapter to what it adds, and to the logits that PEFT gives for each prompt; 0 is the base."""
    folder = tmp_path_factory.mktemp("adapters")
    changes, expected = {}, {0: _logits(tiny())}
    for number, options in enumerate(VARIANTS.values(), start=1):
        saved = save_adapter(folder / str(number), tiny(), **options)
        changes[number] = read_low_rank(find_adapter(str(saved)))
        expected[number] = _logits(by_peft(saved, tiny()))
    return changes, expected


@pytest.fixture(scope="module")
def more_adapters(tmp_path_factory):
    """The same of those that are more than sums."""
    folder = tmp_path_factory.mktemp("more")
    changes, expected = {}, {0: _logits(_biased())}
    for number, options in enumerate([*MORE_VARIANTS.values(), VARIANTS["every projection"]], start=1):
        saved = save_adapter(folder / str(number), _biased(), **options)
        changes[number] = read_low_rank(find_adapter(str(saved)))
        expected[number] = _logits(by_peft(saved, _biased()))
    return changes, expected


def _biased():
    """A tiny model with biases, which DoRA does not scale; its output layer is its own."""
    torch.manual_seed(0)
    shape = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**shape, **heads, use_sliding_window=False)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(3))
    return model


def _logits(model):
    with torch.inference_mode():
        return [model(torch.tensor([prompt])).logits[0] for prompt in PROMPTS]


@pytest.fixture(scope="module", params=sorted(KINDS))
def runner(request, adapters):
    made = TorchRunner(tiny(), num_slots=len(PROMPTS), max_length=64, num_threads=1, **KINDS[request.param])
    assert (made.kind, isinstance(made, AdapterRunner)) == (request.param, True)
    for number, changes in adapters[0].items():
        made.add_adapter(number, changes)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [(1, 2, 3, 4), (0, 4, 0, 2), (3, 3, 1, 0)])
def test_each_row_of_a_step_goes_through_its_own_adapter(numbers, runner, adapters):
    slots = list(zip(range(len(PROMPTS)), numbers, PROMPTS, strict=True))
    first = [StepItem(slot, 0, ids[: 4 + slot], False, adapter=number) for slot, number, ids in slots]
    rest = [StepItem(slot, 4 + slot, ids[4 + slot : -1], True, True, adapter=number) for slot, number, ids in slots]
    last = [StepItem(slot, len(ids) - 1, ids[-1:], True, adapter=number) for slot, number, ids in slots]
    runner.step(first)
    got = [*runner.step(rest).clone(), *runner.step(last)]
    wanted = [row for slot, number, ids in slots for row in adapters[1][number][slot][4 + slot : len(ids) - 1]]
    wanted += [adapters[1][number][slot][-1] for slot, number, _ in slots]
    torch.testing.assert_close(torch.stack(got), torch.stack(wanted), atol=2e-4, rtol=2e-4)


def test_adapters_change_answers_and_can_be_taken_out_again(runner, adapters):
    changes, expected = adapters
    assert all((expected[0][0] - expected[number][0]).abs().max() > 1e-2 for number in changes)
    runner.remove_adapter(2)
    items = [StepItem(slot, 0, PROMPTS[slot], True, adapter=number) for slot, number in enumerate((1, 3, 0))]
    try:
        got = runner.step(items).clone()
    finally:
        runner.add_adapter(2, changes[2])
    wanted = [expected[number][slot][-1] for slot, number in enumerate((1, 3, 0))]
    torch.testing.assert_close(got, torch.stack(wanted), atol=2e-4, rtol=2e-4)


@pytest.fixture(scope="module", params=sorted(KINDS))
def able_runner(request, more_adapters):
    made = TorchRunner(_biased(), num_slots=len(PROMPTS), max_length=64, num_threads=1, **KINDS[request.param])
    assert made.kind == request.param
    for number, changes in more_adapters[0].items():
        made.add_adapter(number, changes)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [(1, 2, 3, 4), (0, 1, 4, 2), (3, 3, 0, 0), (2, 0, 2, 1)])
def test_decomposed_adapters_and_layers_trained_whole_are_each_rows_own(numbers, able_runner, more_adapters):
    expected = more_adapters[1]
    assert all((expected[0][0] - expected[number][0]).abs().max() > 1e-2 for number in more_adapters[0])
    slots = list(zip(range(len(PROMPTS)), numbers, PROMPTS, strict=True))
    able_runner.step([StepItem(slot, 0, ids[: 4 + slot], False, adapter=number) for slot, number, ids in slots])
    rest = [StepItem(slot, 4 + slot, ids[4 + slot : -1], True, adapter=number) for slot, number, ids in slots]
    last = [StepItem(slot, len(ids) - 1, ids[-1:], True, adapter=number) for slot, number, ids in slots]
    got = [*able_runner.step(rest).clone(), *able_runner.step(last)]
    wanted = [expected[number][slot][len(ids) - 2] for slot, number, ids in slots]
    wanted += [expected[number][slot][-1] for slot, number, ids in slots]
    torch.testing.assert_close(torch.stack(got), torch.stack(wanted), atol=2e-4, rtol=2e-4)


def test_what_an_adapter_replaced_is_gone_with_it(able_runner, more_adapters):
    changes, expected = more_adapters
    able_runner.remove_adapter(2)
    items = [StepItem(slot, 0, PROMPTS[slot], True, adapter=number) for slot, number in enumerate((0, 3, 1))]
    try:
        got = able_runner.step(items).clone()
    finally:
        able_runner.add_adapter(2, changes[2])
    wanted = [expected[number][slot][-1] for slot, number in enumerate((0, 3, 1))]
    torch.testing.assert_close(got, torch.stack(wanted), atol=2e-4, rtol=2e-4)


def test_layers_trained_whole_that_are_no_rows_own_are_refused_by_name(able_runner, tmp_path):
    other = {"another vocabulary": {"vocab_size": 64}, "a norm": {}}
    for name, shape in other.items():
        base = _biased()
        if shape:
            base.resize_token_embeddings(64, mean_resizing=False)
        saved = save_adapter(
            tmp_path / name.replace(" ", "-"),
            base,
            target_modules=["q_proj"],
            modules_to_save=["lm_head"] if shape else ["mlp"],
        )
        with pytest.raises((UnsupportedModelError, ModelLoadError), match=r"merged: kit\.load"):
            able_runner.add_adapter(9, read_low_rank(find_adapter(str(saved))))


def test_an_adapter_of_another_model_is_refused_and_changes_nothing(runner, adapters, tmp_path):
    for name, shape in {"wider": {"hidden_size": 32}, "deeper": {"num_hidden_layers": 6}}.items():
        saved = save_adapter(tmp_path / name, tiny(**shape), target_modules=["q_proj"])
        with pytest.raises(ModelLoadError, match=r"model\.layers\.\d\.self_attn\.q_proj"):
            runner.add_adapter(9, read_low_rank(find_adapter(str(saved))))
    items = [StepItem(0, 0, PROMPTS[0], True, adapter=1)]
    torch.testing.assert_close(runner.step(items)[0], adapters[1][1][0][-1], atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens"),
        ({"target_modules": ["lm_head"]}, "lm_head"),
    ],
    ids=["embedding", "output layer"],
)
def test_what_is_no_sum_is_refused_with_how_to_load_it(options, match, tmp_path):
    saved = save_adapter(tmp_path / "lora", tiny(), **options)
    with pytest.raises(UnsupportedModelError, match=rf"{match}.*merged: kit\.load"):
        read_low_rank(find_adapter(str(saved)))


def test_a_family_with_transposed_weights_computes_them_too(tmp_path):
    torch.manual_seed(0)
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 60, "n_positions": 64}

    def base():
        torch.manual_seed(0)
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, bos_token_id=0, eos_token_id=0)).eval()

    options = {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}
    saved = save_adapter(tmp_path / "lora", base(), **options)
    runner = TorchRunner(base(), num_slots=2, max_length=64)
    runner.add_adapter(1, read_low_rank(find_adapter(str(saved))))
    got = runner.step([StepItem(0, 0, PROMPTS[0], True, adapter=1), StepItem(1, 0, PROMPTS[0], True)])
    wanted = [_logits(by_peft(saved, base()))[0][-1], _logits(base())[0][-1]]
    torch.testing.assert_close(got, torch.stack(wanted), atol=2e-4, rtol=2e-4)
    runner.close()
