from __future__ import annotations

import importlib.util

import pytest
import torch

from llmapi_kit.checkpoints.device_choice import pick_device, pick_quantization
from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.checkpoints.weights import load_model
from llmapi_kit.errors import ConfigError, MissingDependencyError


def test_a_gpu_is_named_by_a_number_that_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [pick_device(name) for name in (None, "cuda", "cuda:1", "cpu")] == ["cuda:0", "cuda:0", "cuda:1", "cpu"]
    with pytest.raises(ConfigError, match="2 GPUs here; the last is cuda:1"):
        pick_device("cuda:2")
    for name in ("cuda:", "cuda:x", "cudax", "cpu:0", ""):
        with pytest.raises(ConfigError, match="not known"):
            pick_device(name)


def test_8_bits_are_had_on_a_gpu_or_refused_with_the_reason(monkeypatch):
    with pytest.raises(ConfigError, match="needs a GPU"):
        load_model(parse_spec("pocket"), device="cpu", quantize="8bit")
    with pytest.raises(ConfigError, match="'8bit'"):
        load_model(parse_spec("pocket"), device="cpu", quantize="3bit")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else found(name))
    with pytest.raises(MissingDependencyError, match=r"llmapi-kit\[quant\]"):
        pick_quantization("8bit", "cuda:0", parse_spec("pocket"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    options = pick_quantization("8bit", "cuda:0", parse_spec("pocket"))
    assert options["quantization_config"].load_in_8bit
    assert options["device_map"] == {"": "cuda:0"}
    assert pick_quantization(None, "cpu", parse_spec("pocket")) == {}


def test_4_bits_on_a_gpu_are_normal_floats_computed_in_what_the_gpu_has(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.49.0")  # transformers asks for bitsandbytes'
    for has_bfloat16, dtype in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has_bfloat16, **options: has)
        config = pick_quantization("4bit", "cuda:0", parse_spec("pocket"))["quantization_config"]
        assert (config.load_in_4bit, config.bnb_4bit_quant_type) == (True, "nf4")
        assert config.bnb_4bit_compute_dtype == dtype
