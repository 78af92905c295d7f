"""A runner without a model of transformers computes what one over the model does, and finds out where it doesn't."""

from __future__ import annotations

import pytest
import torch

from llmapi_kit.checkpoints.decoder_config import read_decoder_config
from llmapi_kit.checkpoints.decoder_weights import read_decoder_weights
from llmapi_kit.checkpoints.model_decoder import weights_of_model
from llmapi_kit.errors import ModelLoadError, UnsupportedModelError
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.native import packed_model
from llmapi_kit.runners.native.packed_model import PackedModel
from llmapi_kit.runners.native.reference import last_logits
from llmapi_kit.runners.native.runner import NativeRunner
from llmapi_kit.runners.torch_runner import TorchRunner
from tests.runners.conftest import TINY, VOCAB, make_tiny

FAMILIES = sorted(set(TINY) - {"gpt2"})
IDS = [(31 * i + 5) % VOCAB for i in range(40)]


def run(weights, dtype=torch.float32, **options):
    return NativeRunner(weights, num_slots=2, max_length=64, dtype=dtype, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_is_what_transformers_computes(family):
    model = make_tiny(family)
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[:, -1]
    got = last_logits(weights_of_model(model), IDS)
    torch.testing.assert_close(got, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-4)


def test_the_reference_widens_a_large_matrix_in_parts(monkeypatch):
    whole = last_logits(weights_of_model(make_tiny("llama").bfloat16()), IDS)
    monkeypatch.setattr("llmapi_kit.runners.native.reference.BLOCK", 100)
    torch.testing.assert_close(last_logits(weights_of_model(make_tiny("llama").bfloat16()), IDS), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_folders_weights_give_the_same_bits_as_the_model_in_it(family, dtype, tmp_path):
    model = make_tiny(family).bfloat16()
    model.save_pretrained(tmp_path)
    mine = run(read_decoder_weights(tmp_path, read_decoder_config(tmp_path)), dtype)
    # A model's rotary embedding is rounded with its weights, a folder's is not
    fresh = type(model.model.rotary_emb)(model.config)
    model.model.rotary_emb = fresh
    theirs = TorchRunner(model, num_slots=2, max_length=64, dtype=dtype)
    assert theirs.kind == mine.kind == "native"
    for item in (StepItem(1, 0, IDS[:30], True, wants_mean=True), StepItem(1, 30, IDS[30:], True, wants_mean=True)):
        assert torch.equal(mine.step([item]), theirs.step([item]))
    assert mine.mean_state(1) == theirs.mean_state(1)
    assert mine.kv_bytes == theirs.kv_bytes


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_compiled_step_that_computes_something_else_is_found_out(family, monkeypatch):
    take = PackedModel._floats
    monkeypatch.setattr(PackedModel, "_floats", lambda self, values: take(self, values * 1.05))
    with pytest.raises(UnsupportedModelError, match=r"other logits over slots than by itself .* native=False"):
        run(weights_of_model(make_tiny(family)))


def test_matrices_in_a_wrong_order_are_found_out(monkeypatch):
    matrices = packed_model._matrices

    def swapped(config, index):
        (query, key, value), *others = matrices(config, index)
        return [[key, query, value], *others]

    monkeypatch.setattr(packed_model, "_matrices", swapped)
    with pytest.raises(UnsupportedModelError, match="LlamaForCausalLM gives other logits"):
        run(weights_of_model(make_tiny("llama")))


def test_weights_that_are_no_numbers_are_named_in_the_models_order():
    weights = weights_of_model(make_tiny("llama"))
    for name in ("model.norm.weight", "model.layers.1.mlp.up_proj.weight"):
        weights.tensors[name][0] = torch.nan
    with pytest.raises(ModelLoadError, match=r"LlamaForCausalLM: the weight model.layers.1.mlp.up_proj.weight and 1"):
        run(weights)


def test_sums_that_overflow_are_told_from_broken_weights():
    weights = weights_of_model(make_tiny("llama"))
    weights.tensors["model.norm.weight"].fill_(3e38)
    with pytest.raises(UnsupportedModelError, match="LlamaForCausalLM computes numbers that are not finite"):
        run(weights)


def test_a_small_model_takes_one_thread_and_leaves_the_callers_as_they_were():
    before = torch.get_num_threads()
    runner = run(weights_of_model(make_tiny("llama")))
    assert torch.get_num_threads() == before
    assert runner._num_threads == 1
    assert run(weights_of_model(make_tiny("llama")), num_threads=3)._num_threads == 3
