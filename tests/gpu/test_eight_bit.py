"""8-bit weights, for which bitsandbytes must be installed; on CUDA only."""

from __future__ import annotations

import gc

import pytest
import torch

import llmapi_kit as kit

from .devices import DEVICE, allocated_bytes
from .models import write_model

# bitsandbytes says with a warning that it computes in float16
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")]


def kept_parameters():
    return [each for each in gc.get_objects() if issubclass(type(each), torch.nn.Parameter)]


def test_weights_stay_in_8_bits_answer_and_leave_the_device(tmp_path, record_property):
    weights = write_model(tmp_path / "model")
    before = allocated_bytes()
    model = kit.load(str(tmp_path / "model"), device=str(DEVICE), quantize="8bit", max_slots=2)
    try:
        loaded = allocated_bytes() - before
        assert any(parameter.dtype == torch.int8 for parameter in kept_parameters())
        text = model.ask("Hello", max_tokens=12, temperature=0, ignore_eos=True)
        assert text == model.ask("Hello", max_tokens=12, temperature=0, ignore_eos=True)
    finally:
        model.close()
    record_property("MiB", {"bfloat16": weights >> 20, "loaded with KV memory": loaded >> 20})
    assert allocated_bytes() - before <= 64 * 2**20  # cuBLAS's workspaces, if this is the first load
