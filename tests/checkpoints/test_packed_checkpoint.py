"""Checkpoints that come quantized give what their numbers say, or are refused by name."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

import llmapi_kit as kit
from llmapi_kit.checkpoints.decoder_config import read_decoder_config
from llmapi_kit.checkpoints.decoder_weights import read_decoder_weights
from llmapi_kit.checkpoints.fit import check_folder
from llmapi_kit.checkpoints.integer_weights import IntegerFormat, IntegerMatrix
from llmapi_kit.checkpoints.packed_checkpoint import check_quantization, packing_of
from llmapi_kit.checkpoints.spec import POCKET_DIR, parse_spec
from llmapi_kit.checkpoints.weights import load_model
from llmapi_kit.errors import ConfigError, UnsupportedModelError
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.native.runner import NativeRunner
from tests.checkpoints.packed_files import CONFIGS, packed
from tests.runners.conftest import make_tiny
from tests.runners.native.families import make_family

BIAS = "model.layers.1.self_attn.q_proj.bias"
QUESTION = "What is a KV cache?"


def write(folder, layout, *, left_out=()):
    """The pocket model with its layers' matrices packed; returns the weights that they stand for."""
    shutil.copytree(POCKET_DIR, folder, dirs_exist_ok=True)
    tensors, meant = {}, {}
    for name, tensor in load_file(POCKET_DIR / "model.safetensors").items():
        if "proj" in name and name not in left_out:
            parts, meant[name] = packed(tensor.float(), layout)
            tensors |= {name.removesuffix("weight") + part: value for part, value in parts.items()}
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": CONFIGS[layout]}))
    return meant


def read(folder):
    return read_decoder_weights(folder, read_decoder_config(folder))


@pytest.mark.parametrize("layout", CONFIGS)
def test_each_matrix_is_what_the_files_numbers_say(layout, tmp_path):
    meant = write(tmp_path, layout)
    weights = read(tmp_path)
    assert weights.integers == IntegerFormat(8, 128) if layout == "int-quantized" else IntegerFormat(4, 32)
    for name, expected in meant.items():
        matrix = weights.tensors[name]
        assert isinstance(matrix, IntegerMatrix)
        torch.testing.assert_close(matrix.rows(0, len(expected)).widened(), expected)
        torch.testing.assert_close(matrix.rows(3, 13).widened(), expected[3:13])


@pytest.mark.slow
def test_a_folder_in_four_bits_is_served_without_its_makers_package(tmp_path):
    write(tmp_path, "gptq")
    model = kit.load(str(tmp_path), max_slots=1, context_length=256)
    assert model.ask(QUESTION, temperature=0) == kit.load("pocket").ask(QUESTION, temperature=0)
    model.close()
    with pytest.raises(ConfigError, match="4 bits already"):
        kit.load(str(tmp_path), quantize="int8")


def test_layers_that_were_left_in_floats_make_all_of_them_8_bits(tmp_path):
    write(tmp_path, "awq", left_out={"model.layers.1.mlp.down_proj.weight"})
    assert read(tmp_path).integers == IntegerFormat(8, 32)


def test_fp8_in_blocks_is_widened(tmp_path):
    shutil.copytree(POCKET_DIR, tmp_path, dirs_exist_ok=True)
    tensors = load_file(POCKET_DIR / "model.safetensors")
    name = "model.layers.0.mlp.gate_proj.weight"  # 704 rows: five blocks and a half
    weight = tensors[name].float()
    scales = torch.rand(6, 2) + 0.5
    wide = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)[:704]
    tensors[name] = (weight / wide).to(torch.float8_e4m3fn)
    tensors[f"{name}_scale_inv"] = scales
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = read(tmp_path)
    torch.testing.assert_close(weights.tensors[name].float(), weight, rtol=0.07, atol=2e-3)
    assert weights.integers is None


@pytest.mark.parametrize(
    "changed",
    [{"desc_act": True}, {"bits": 3}, {"group_size": 48}, {"quant_method": "spqr"}, {"group_size": None}],
)
def test_what_is_not_understood_is_left_to_transformers(changed):
    assert packing_of(CONFIGS["gptq"]) is not None
    assert packing_of({**CONFIGS["gptq"], **changed}) is None


@pytest.mark.parametrize(
    ("quantization", "words"),
    [
        ({"quant_method": "gptq", "bits": 3}, "pip install gptqmodel"),
        ({"quant_method": "compressed-tensors", "format": "nvfp4"}, "pip install compressed-tensors"),
        ({"load_in_4bit": True}, "bitsandbytes, which is computed on a GPU only"),
        ({"quant_method": "fbgemm_fp8"}, "fbgemm_fp8, which is computed on a GPU only"),
    ],
)
def test_what_can_not_be_loaded_is_refused_by_name_before_weights_are_read(quantization, words):
    with pytest.raises(UnsupportedModelError, match=words) as caught:
        check_quantization({"quantization_config": quantization}, "m", "cpu")
    assert "GGUF" in str(caught.value)


def test_inputs_in_another_order_than_their_groups_are_not_understood(tmp_path):
    write(tmp_path, "gptq")
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("g_idx"))
    tensors[name] = tensors[name].flip(0)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert read(tmp_path) is None


def test_matrices_may_have_biases_beside_what_is_packed(tmp_path):
    """Qwen2 in GPTQ, the most common of all, was once left to a package, as biases were taken for a part of it."""
    make_tiny("qwen2").save_pretrained(tmp_path)
    tensors = {}
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        parts = packed(tensor.float(), "gptq")[0] if name.endswith("proj.weight") else {"weight": tensor}
        tensors |= {
            name.removesuffix("weight") + part if len(parts) > 1 else name: each for part, each in parts.items()
        }
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": CONFIGS["gptq"]}))
    weights = read(tmp_path)
    assert torch.equal(weights.tensors[BIAS], tensors[BIAS])
    assert weights.integers == IntegerFormat(4, 32)


@pytest.fixture
def of_gpt_oss(tmp_path):
    """A folder as GPT-OSS comes: all experts of a layer in one tensor, the rows of gate and up by turns.

    With what transformers makes of these tensors, and a model that has them.
    """
    model = make_family("gpt oss")
    model.save_pretrained(tmp_path)
    generator = torch.Generator().manual_seed(0)
    tensors, wide = {}, {}
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            tensors[name] = tensor
            continue
        shape = (len(tensor), tensor.shape[2], tensor.shape[1] // 32)
        tensors[f"{name}_blocks"] = torch.randint(256, (*shape, 16), dtype=torch.uint8, generator=generator)
        tensors[f"{name}_scales"] = torch.randint(119, 124, shape, dtype=torch.uint8, generator=generator)
        parts = tensors[f"{name}_blocks"], tensors[f"{name}_scales"]
        wide[name] = convert_moe_packed_tensors(*parts, dtype=torch.float32)  # (experts, inputs, outputs)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "mxfp4"}}))
    model.load_state_dict({**model.state_dict(), **wide})
    return model, wide


def test_mxfp4_of_experts_is_what_transformers_makes_of_it(of_gpt_oss, tmp_path):
    model, wide = of_gpt_oss
    weights = read(tmp_path)
    assert weights.integers == IntegerFormat(8, 32)
    for parameter, expected in wide.items():
        start, part = parameter.rsplit(".", 1)
        expected = expected[3].t()
        names = {"gate_proj": expected[::2], "up_proj": expected[1::2]} if part == "gate_up_proj" else {part: expected}
        for name, rows in names.items():
            assert torch.equal(weights.tensors[f"{start}.3.{name}.weight"].rows(5, 20).widened(), rows[5:20])
    weights.round_to(weights.integers)
    runner = NativeRunner(weights, num_slots=2, max_length=64, dtype=torch.float32)
    with torch.no_grad():
        expected = model(torch.tensor([[5, 7, 9, 11]])).logits[0, -1]
    got = runner.step([StepItem(0, 0, [5, 7, 9, 11], True)])[0]
    torch.testing.assert_close(got, expected, atol=0.02 * float(expected.abs().max()), rtol=0)  # the rest is in 8 bits


def test_mxfp4_is_made_into_floats_where_torch_computes(of_gpt_oss, tmp_path):
    """With ``native=False``, a merged adapter or ``dtype="bfloat16"``; it was said to need a GPU."""
    model, _ = of_gpt_oss
    loaded = load_model(parse_spec(tmp_path), device="cpu", tokenizer="pocket", dtype="float32")
    ids = torch.tensor([[5, 7, 9, 11]])
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(ids).logits[..., : model.vocab_size], model(ids).logits)


def test_mxfp4_takes_as_much_memory_as_it_is_made_into(of_gpt_oss, tmp_path):
    stored = (tmp_path / "model.safetensors").stat().st_size
    packed, floats = (check_folder(tmp_path, "cpu", unpacks=unpacks).weights_bytes for unpacks in (False, True))
    assert packed == pytest.approx(stored * 36 / 17, rel=1e-3)
    assert floats == pytest.approx(stored * 64 / 17, rel=1e-3)
