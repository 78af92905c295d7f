"""Adapters that are damaged, hostile or made for another model: refused, and nothing they name is run."""

from __future__ import annotations

import json
import random
import shutil
import sys

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from llmapi_kit.checkpoints.adapter_files import find_adapter
from llmapi_kit.checkpoints.adapters import apply_adapter
from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.checkpoints.weights import load_model
from llmapi_kit.errors import ModelError, ModelLoadError, ModelNotFoundError, UnsupportedModelError
from tests.checkpoints.lora_files import pocket, save_adapter, set_config, tiny


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A LoRA of a tiny Llama."""
    return save_adapter(tmp_path_factory.mktemp("small") / "lora", tiny(), target_modules=["q_proj", "down_proj"])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A LoRA of the pocket model."""
    return save_adapter(tmp_path_factory.mktemp("plain") / "lora", pocket(), target_modules=["q_proj"])


@pytest.fixture
def copied(plain, tmp_path):
    """One to damage."""
    return shutil.copytree(plain, tmp_path / "lora")


CONFIGS = {
    "another method": ({"peft_type": "IA3"}, UnsupportedModelError, "IA3"),
    "another task": ({"task_type": "SEQ_CLS"}, UnsupportedModelError, "SEQ_CLS"),
    "changed base weights": ({"init_lora_weights": "pissa"}, UnsupportedModelError, "pissa"),
    "a module to import": ({"megatron_config": {"x": 1}}, UnsupportedModelError, "megatron_config"),
    "layers repeated": ({"layer_replication": [[0, 2]]}, UnsupportedModelError, "layer_replication"),
    "activated by tokens": ({"alora_invocation_tokens": [1]}, UnsupportedModelError, "alora_invocation_tokens"),
    "an option of the future": ({"use_magic": True}, UnsupportedModelError, "use_magic"),
    "a slow pattern": ({"alpha_pattern": {"(a+)+$": 2}}, UnsupportedModelError, "alpha_pattern"),
    "no rank": ({"r": 0}, ModelLoadError, "r is 0"),
    "a text for a rank": ({"r": "4"}, ModelLoadError, "r is '4'"),
    "half a rank": ({"r": 2.5}, ModelLoadError, "2.5"),
    "another rank": ({"r": 8}, ModelLoadError, "does not fit"),
    "an infinite scale": ({"lora_alpha": float("inf")}, ModelLoadError, "lora_alpha"),
    "a flag that is none": ({"use_dora": "yes"}, ModelLoadError, "use_dora"),
    "patterns that are none": ({"rank_pattern": [1]}, ModelLoadError, "rank_pattern"),
    "magnitudes that are not there": ({"use_dora": True}, ModelLoadError, "does not fit"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(CONFIGS))
def test_what_an_adapter_asks_for_is_done_or_refused_by_name(case, copied):
    values, error, match = CONFIGS[case]
    set_config(copied, **values)
    with pytest.raises(error, match=match):
        load_model(parse_spec("pocket"), device="cpu", lora=str(copied))


def test_no_module_that_an_adapter_names_is_imported(copied, tmp_path, monkeypatch):
    (tmp_path / "canary_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    mapping = {"base_model_class": "X", "parent_library": "canary_module"}
    set_config(copied, megatron_core="canary_module", auto_mapping=mapping, target_modules="(a+)+$")
    load_model(parse_spec("pocket"), device="cpu", lora=str(copied))
    assert "canary_module" not in sys.modules


def test_a_tokenizer_that_brings_code_is_refused(copied):
    config = {"tokenizer_class": "X", "auto_map": {"AutoTokenizer": ["code.X", None]}}
    (copied / "tokenizer_config.json").write_text(json.dumps(config))
    (copied / "tokenizer.json").write_text("{}")
    (copied / "code.py").write_text("raise SystemExit('run')")
    with pytest.raises(ModelLoadError, match="tokenizer"):
        load_model(parse_spec("pocket"), device="cpu", lora=str(copied))


def test_pickle_weights_are_refused_with_the_reason(copied):
    (copied / "adapter_model.safetensors").rename(copied / "adapter_model.bin")
    with pytest.raises(UnsupportedModelError, match="run code"):
        find_adapter(str(copied))


def test_files_that_are_missing_or_damaged_are_named(copied, tmp_path):
    weights, config = copied / "adapter_model.safetensors", copied / "adapter_config.json"
    whole = weights.read_bytes()
    for damaged in (b"", whole[:7], whole[:1000], whole[:-10], b"PK\x03\x04" * 100, b"\xff" * 8 + whole[8:]):
        weights.write_bytes(damaged)
        with pytest.raises(ModelLoadError, match=r"adapter_model\.safetensors is (damaged|empty|a ZIP archive)"):
            find_adapter(str(copied))
    weights.write_bytes(whole)
    for text in ("", "{", "[]", "[" * 50_000, "\x00", '{"r": ' + "9" * 6000 + "}"):
        config.write_text(text)
        with pytest.raises(ModelError, match=r"adapter_config\.json|None"):
            find_adapter(str(copied))
    config.write_bytes(b" " * 1_000_001)
    with pytest.raises(ModelLoadError, match="larger"):
        find_adapter(str(copied))
    config.unlink()
    with pytest.raises(ModelNotFoundError, match=r"adapter_config\.json"):
        find_adapter(str(copied))
    config.write_text("{}")
    weights.unlink()
    with pytest.raises(ModelNotFoundError, match=r"adapter_model\.safetensors"):
        find_adapter(str(copied))


def test_an_adapter_of_the_hub_is_found_where_it_was_downloaded(small, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--lora"
    shutil.copytree(small, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    adapter = find_adapter("owner/lora")
    assert (adapter.name, adapter.folder) == ("owner/lora", repository / "snapshots" / "abc")


@pytest.mark.parametrize("name", ["", "nothing", "./nowhere", "a b", "owner/name"])
def test_a_name_without_an_adapter_behind_it_says_so(name):
    with pytest.raises(ModelNotFoundError, match="LoRA adapter"):
        load_model(parse_spec("pocket"), device="cpu", lora=name)


@pytest.mark.parametrize(
    "shape",
    [{"hidden_size": 32}, {"num_hidden_layers": 2}, {"intermediate_size": 48}],
    ids=["another width", "fewer layers", "another inner width"],
)
def test_an_adapter_of_another_model_is_refused(small, shape):
    with pytest.raises(ModelLoadError, match="does not fit this model"):
        apply_adapter(tiny(**shape), find_adapter(str(small)))


def test_the_model_that_an_adapter_was_trained_on_is_named(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "lora")
    set_config(folder, base_model_name_or_path="owner/its-base")
    with pytest.raises(ModelLoadError, match="owner/its-base"):
        apply_adapter(tiny(hidden_size=32), find_adapter(str(folder)))


@pytest.mark.parametrize("damage", ["not a number", "infinite", "whole numbers", "a stranger", "half a pair", "none"])
def test_weights_that_make_no_sense_are_refused(damage, small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "lora")
    tensors = load_file(folder / "adapter_model.safetensors")
    name = sorted(tensors)[0]
    if damage == "not a number":
        tensors[name][0, 0] = float("nan")
    elif damage == "infinite":
        tensors[name][0, 0] = float("inf")
    elif damage == "whole numbers":
        tensors[name] = tensors[name].int()
    elif damage == "a stranger":
        tensors["base_model.model.model.other.weight"] = torch.ones(2)
    elif damage == "half a pair":
        del tensors[name]
    else:
        tensors = {"base_model.model.model.norm.weight": torch.ones(16)}
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ModelLoadError):
        apply_adapter(tiny(), find_adapter(str(folder)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_mutated_files_load_or_say_why_not(name, small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "lora")
    whole = (folder / name).read_bytes()
    dice = random.Random(11)
    refused = 0
    for _ in range(150):
        mutated = bytearray(whole)
        for _ in range(dice.choice((1, 1, 3, 20))):
            mutated[dice.randrange(min(len(mutated), 2500))] = dice.randrange(256)
        (folder / name).write_bytes(bytes(mutated))
        try:
            apply_adapter(tiny(), find_adapter(str(folder)))
        except ModelError:
            refused += 1
    assert refused > 50
