"""Weights in bfloat16 are not doubled by default; which runner a model gets is what it can be run by."""

from __future__ import annotations

import pytest
import torch

from llmapi_kit.checkpoints.fit import SlotPlan
from llmapi_kit.checkpoints.weights import LoadedModel
from llmapi_kit.config import Settings
from llmapi_kit.loading import runner_choice
from llmapi_kit.loading.runner_choice import make_runner, with_arithmetic
from tools import model_families


def loaded(name, dtype=torch.bfloat16):
    model = model_families.make_model(model_families.make_config(name)).to(dtype)
    return LoadedModel(model, None, "cpu", "float32", (2,), 0, {})


@pytest.mark.parametrize(
    ("name", "limit", "native", "expected"),
    [
        ("gpt2", 0, True, "bfloat16"),
        ("gpt2", 2**30, True, "float32"),
        ("llama", 0, True, "float32"),
        ("llama", 0, False, "bfloat16"),
    ],
    ids=["many", "few", "a step in C", "no step in C"],
)
def test_weights_in_bfloat16_stay_as_they_are_unless_they_are_few(name, limit, native, expected, monkeypatch):
    monkeypatch.setattr(runner_choice, "MAX_WIDENED_BYTES", limit)
    settings = Settings(native=native)
    found = with_arithmetic(loaded(name), settings)
    assert found.dtype == expected
    runner = make_runner(found, SlotPlan(2, 32, 0), settings)
    assert runner.kind == ("native" if native and name == "llama" else "lean" if name == "llama" else "modules")
    if runner.kind != "native":
        assert {str(weight.dtype) for weight in found.model.parameters()} == {f"torch.{expected}"}
    runner.close()


def test_what_was_asked_for_is_computed_in():
    asked = loaded("gpt2", torch.float32)
    assert with_arithmetic(asked, Settings()) is asked
