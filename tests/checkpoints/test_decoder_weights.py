"""Weights by name: taken from files only where nothing is missing, and otherwise left to transformers."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmapi_kit.checkpoints.decoder_config import read_decoder_config
from llmapi_kit.checkpoints.decoder_families import EMBEDDING, HEAD, NORM
from llmapi_kit.checkpoints.decoder_weights import read_decoder_weights
from llmapi_kit.checkpoints.model_decoder import weights_of_model
from tests.checkpoints.odd_folders import WEIGHTS
from tests.runners.conftest import TINY, make_tiny
from tests.runners.native.families import FAMILIES as MORE_FAMILIES
from tests.runners.native.families import make_family

FAMILIES = sorted(set(TINY) - {"gpt2"})


def saved(folder, model, change=None):
    """What is read of a model's folder, after a change to its tensors."""
    model.save_pretrained(folder)
    if change is not None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = read_decoder_config(folder)
    assert config is not None
    return read_decoder_weights(folder, config)


@pytest.mark.parametrize("family", [*FAMILIES, *sorted(MORE_FAMILIES)])
def test_a_folder_has_what_the_model_in_it_has(family, tmp_path):
    model = (make_tiny(family) if family in TINY else make_family(family)).bfloat16()
    num_parameters = model.num_parameters()
    # A model's rotary embedding is rounded with its weights, a folder's is not
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    mapped, theirs = saved(tmp_path, model), weights_of_model(model.float())
    assert mapped.dtype == torch.bfloat16
    assert mapped.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(mapped.tensors[name].float(), tensor) for name, tensor in theirs.tensors.items())
    assert mapped.num_parameters() == theirs.num_parameters() == num_parameters
    assert mapped.is_tied == theirs.is_tied
    assert mapped.config.windows == theirs.config.windows
    assert mapped.config.variant == theirs.config.variant
    assert mapped.original_length == theirs.original_length
    for is_long in (False, True):
        rotaries = (weights.rotaries(600, is_long=is_long) for weights in (mapped, theirs))
        for mine, own in zip(*rotaries, strict=True):
            assert all(torch.equal(*pair) for pair in zip(mine, own, strict=True))


def test_weights_in_shards_are_put_together(tmp_path):
    model = make_tiny("llama")
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    weights = read_decoder_weights(tmp_path, read_decoder_config(tmp_path))
    assert torch.equal(weights.take(NORM), model.model.norm.weight)
    assert NORM not in weights.tensors


def renamed(tensors):
    tensors["model.norm.gain"] = tensors.pop(NORM)


CHANGES = {
    "a tensor is missing": lambda tensors: tensors.pop(NORM),
    "a tensor has no place": lambda tensors: tensors.update(more=torch.ones(1)),
    "a tensor has another name": renamed,
    "a tensor has another shape": lambda tensors: tensors.update({NORM: torch.ones(3)}),
    "a tensor is of another type": lambda tensors: tensors.update({NORM: tensors[NORM].half()}),
    "a tied output layer is another": lambda tensors: tensors.update({HEAD: tensors[EMBEDDING] + 1}),
    "there is no embedding": lambda tensors: tensors.update({HEAD: tensors.pop(EMBEDDING)}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_transformers_has_to_judge_is_left_to_it(change, tmp_path):
    assert saved(tmp_path, make_tiny("qwen2"), change) is None


HARMLESS = {
    "a tied output layer is stored too": lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}),
    "old files have a buffer": lambda tensors: tensors.update(
        {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    ),
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_what_changes_nothing_is_passed_over(change, tmp_path):
    assert saved(tmp_path, make_tiny("qwen2"), change).is_tied


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_rows_for_more_tokens_are_the_mean_of_all(family, tmp_path):
    weights = saved(tmp_path, make_tiny(family))
    before = weights.num_parameters()
    weights.add_mean_rows(202)
    names = (EMBEDDING,) if weights.is_tied else (EMBEDDING, HEAD)
    for name in names:
        rows = weights.tensors[name]
        assert rows.shape[0] == weights.vocab_size == 202
        torch.testing.assert_close(rows[199:], rows[:199].mean(0).expand(3, -1))
    assert weights.num_parameters() - before == 3 * rows.shape[1] * len(names)
