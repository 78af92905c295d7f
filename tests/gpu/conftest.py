"""Where the tests marked gpu run: on CUDA; on a CPU with ``LLMAPI_KIT_GPU_CHECK_DEVICE=cpu``, to try the tests."""

from __future__ import annotations

import pytest
import torch

from llmapi_kit.runners import bucketed_decoder
from llmapi_kit.runners.torch_runner import TorchRunner

from .devices import DEVICE, IS_CUDA


@pytest.fixture(autouse=True)
def _needs_the_device(monkeypatch):
    """Without a GPU these tests fail: one that is skipped would look as if it had passed."""
    if IS_CUDA and not torch.cuda.is_available():
        pytest.fail(f"torch {torch.__version__} sees no GPU here, and LLMAPI_KIT_GPU_CHECK_DEVICE is {DEVICE}.")
    if not IS_CUDA:  # fixed shapes are used with `is_compiled` only; compiling would take minutes and tells nothing
        monkeypatch.setattr(torch, "compile", lambda function, **options: function)
        torch.set_num_threads(1)  # small models on two threads mostly wait


@pytest.fixture
def make_runner(monkeypatch):
    """Makes a `TorchRunner` whose decoding steps run in a given form; see `devices.FORMS`."""

    def make(model, form, **options):
        if form == "modules":
            return TorchRunner(model, lean=False, **options)
        if form == "eager":
            monkeypatch.setattr(TorchRunner, "_choose_bucketed", lambda self, *args: None)
        elif form == "sdpa":
            monkeypatch.setattr(bucketed_decoder, "varlen_attention", lambda *asked: None)
        runner = TorchRunner(model, native=False, is_compiled=not IS_CUDA, **options)
        if form != "eager":
            assert runner._bucketed is not None, "fixed shapes failed the self-check; the log says why"
            assert runner._bucketed.attention == form
        return runner

    return make
