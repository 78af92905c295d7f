"""LoRA adapters as GGUF files: each row of a step goes through its own, here and in a process apart."""

from __future__ import annotations

import copy
import os
import signal

import gguf
import numpy as np
import pytest
import torch

from llmapi_kit.errors import ModelLoadError
from llmapi_kit.runners.base import AdapterRunner, StepItem
from llmapi_kit.runners.llama_context import ContextOptions
from llmapi_kit.runners.llama_cpp_runner import LlamaCppRunner
from llmapi_kit.runners.llama_model import LlamaModel
from llmapi_kit.runners.llama_process import LlamaProcess, StepsSetup
from llmapi_kit.runners.llama_steps import LlamaSteps

from .conftest import VOCAB
from .llama_files import write_tiny

EXACT = ContextOptions(kv_cache_dtype="f32")
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
ALPHA, RANK = 4.0, 2


def write_adapter(path, module, seed, *, architecture="llama", extra=None):
    """A LoRA adapter on what a layer of the first block computes; returns what it adds to its weights."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    dice = np.random.default_rng(seed)
    down = dice.standard_normal((RANK, module.in_features), np.float32)
    up = dice.standard_normal((module.out_features, RANK), np.float32)
    writer.add_tensor("blk.0.ffn_up.weight.lora_a", down)
    writer.add_tensor("blk.0.ffn_up.weight.lora_b", up)
    if extra is not None:
        extra(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return torch.from_numpy(ALPHA / RANK * up @ down)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model's file, those of two adapters, and the model of torch with each of them merged, after the plain one."""
    folder = tmp_path_factory.mktemp("lora")
    models = [write_tiny(folder / "m.gguf")]
    for number in (1, 2):
        models.append(copy.deepcopy(models[0]))
        layer = models[-1].model.layers[0].mlp.up_proj
        layer.weight += write_adapter(folder / f"{number}.gguf", layer, number)
    return folder / "m.gguf", [str(folder / f"{number}.gguf") for number in (1, 2)], models


@pytest.fixture(params=["here", "in a process of its own"])
def steps(request, files):
    path, adapters, _ = files
    if request.param == "here":
        made = LlamaSteps(LlamaModel(path), num_slots=4, max_length=64, options=EXACT)
    else:
        made = LlamaProcess(StepsSetup(path=str(path), num_slots=4, max_length=64, vocab_size=VOCAB, options=EXACT))
    for number, adapter in enumerate(adapters, start=1):
        made.add_adapter(number, adapter)
    yield made
    made.close()


def logits_of(files, ids):
    """What the model gives after some tokens without an adapter, and with each."""
    with torch.inference_mode():
        return [model(torch.tensor([ids])).logits[0, -1] for model in files[2]]


@pytest.mark.slow
def test_each_row_of_a_step_goes_through_its_own_adapter(steps, files):
    prompts = [[(13 * i + slot) % VOCAB for i in range(9)] for slot in range(4)]
    numbers = (2, 0, 1, 2)
    for start, end in ((0, 8), (8, 9)):  # a prefill, then decodes, the last slot first
        items = [StepItem(slot, start, prompts[slot][start:end], True, adapter=numbers[slot]) for slot in (3, 0, 1, 2)]
        logits = torch.from_numpy(steps.step(items))
        for row, slot in zip(logits, (3, 0, 1, 2), strict=True):
            torch.testing.assert_close(row, logits_of(files, prompts[slot][:end])[numbers[slot]], **CLOSE)


@pytest.mark.slow
def test_an_adapter_that_is_taken_out_leaves_the_others_and_the_model(steps, files):
    ids = [5, 6, 7]
    steps.step([StepItem(0, 0, ids, True, adapter=2)])
    steps.remove_adapter(2)
    logits = torch.from_numpy(steps.step([StepItem(0, 0, ids, True), StepItem(1, 0, ids, True, adapter=1)]))
    torch.testing.assert_close(logits, torch.stack(logits_of(files, ids)[:2]), **CLOSE)


@pytest.mark.slow
def test_a_file_that_does_not_fit_is_refused_and_nothing_changes(steps, files, tmp_path):
    wide = torch.nn.Linear(32, 64)
    write_adapter(tmp_path / "wide.gguf", wide, 1)
    with pytest.raises(ModelLoadError, match=r"adapter wide\.gguf does not go on m\.gguf"):
        steps.add_adapter(3, str(tmp_path / "wide.gguf"))
    logits = torch.from_numpy(steps.step([StepItem(1, 0, [5, 6], True, adapter=1)]))
    torch.testing.assert_close(logits[0], logits_of(files, [5, 6])[1], **CLOSE)


@pytest.mark.slow
def test_a_new_process_has_the_adapters_of_the_one_that_died(files):
    path, adapters, _ = files
    setup = StepsSetup(path=str(path), num_slots=2, max_length=16, vocab_size=VOCAB, options=EXACT)
    runner = LlamaCppRunner(LlamaProcess(setup))
    assert isinstance(runner, AdapterRunner)
    runner.add_adapter(1, adapters[0])
    os.kill(runner._steps.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="died") as died:
        runner.step([StepItem(0, 0, [5], True, adapter=1)])
    assert runner.recover(died.value)
    logits = runner.step([StepItem(0, 0, [5, 6], True, adapter=1)])
    torch.testing.assert_close(logits[0], logits_of(files, [5, 6])[1], **CLOSE)
    runner.close()
