"""Whatever llama.cpp loads is batched: a sequence among others computes what it does alone, in every architecture."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from llmapi_kit.checkpoints.gguf_file import open_gguf
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.llama_context import ContextOptions
from tests.checkpoints.gguf_files import KINDS

from .architectures import ARCHITECTURES, VOCAB, write_random
from .llama_files import run, with_wide_heads, write_tiny

pytestmark = pytest.mark.slow

EXACT = ContextOptions(kv_cache_dtype="f32", flash_attn=False)
CLOSE = {"atol": 1e-3, "rtol": 1e-3}


@pytest.mark.parametrize("model", sorted(ARCHITECTURES))
def test_a_sequence_in_a_batch_computes_what_it_does_alone(model, tmp_path):
    path = tmp_path / "m.gguf"
    write_random(path, model)
    assert open_gguf(path).architecture == model.split()[0]
    rng = np.random.default_rng(1)
    sequences = [rng.integers(3, VOCAB, size).tolist() for size in (24, 7, 18)]
    alone, runner = run(path, options=EXACT), run(path, num_slots=4, options=EXACT)
    expected = [alone.step([StepItem(0, 0, ids, True, True)]).clone() for ids in sequences]
    assert all(row.std() > 0.01 for row in expected), "weights that say nothing"
    # Chunks in slots that do not stand side by side, then one token of each
    for begin, end in ((0, 5), (5, 6), (6, 7)):
        slots = (3, 0, 1)
        items = [StepItem(slot, begin, ids[begin:end], True) for slot, ids in zip(slots, sequences, strict=True)]
        for row, rows in zip(runner.step(items), expected, strict=True):
            torch.testing.assert_close(row, rows[end - 1], **CLOSE)
    # A fork of the whole, and a slot that begins anew
    runner.copy_prefix(3, 2, 7)
    rows = runner.step([StepItem(2, 7, sequences[0][7:], True), StepItem(0, 0, sequences[2], True)])
    torch.testing.assert_close(rows, torch.stack((expected[0][-1], expected[2][-1])), **CLOSE)
    assert runner.can_rewind == (model != "mamba")
    if runner.can_rewind:
        runner.copy_prefix(2, 1, 15)
        row = runner.step([StepItem(1, 15, sequences[0][15:], True)])[0]
        torch.testing.assert_close(row, expected[0][-1], **CLOSE)
    else:
        with pytest.raises(RuntimeError, match="can't go back to token 3"):
            runner.step([StepItem(2, 3, [5], True)])
    alone.close()
    runner.close()


def quantised_kinds():
    """Every number format that the gguf package can write."""
    for kind in gguf.GGMLQuantizationType:
        try:
            gguf.quantize(np.zeros((2, 512), np.float32), kind)
        except (NotImplementedError, KeyError):
            continue
        yield kind.name


# Of those that the package can't write, what llama.cpp quantises to without having watched the model
BY_LLAMA_CPP = {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ3_XXS", "IQ3_S", "IQ4_XS", "IQ4_NL"}


@pytest.mark.parametrize("kind", sorted({*quantised_kinds(), *BY_LLAMA_CPP}))
def test_every_number_format_gives_about_the_logits_of_the_values_that_it_stores(kind, tmp_path, monkeypatch):
    monkeypatch.setitem(KINDS, kind, gguf.GGMLQuantizationType[kind])
    path = tmp_path / "m.gguf"
    model = write_tiny(path, with_wide_heads(hidden_size=256, intermediate_size=256, num_attention_heads=8), kind=kind)
    assert kind in {tensor.kind for tensor in open_gguf(path).header.tensors.values()}
    ids = list(range(5, 40))
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0]
    runner = run(path, num_slots=2, options=EXACT)
    logits = runner.step([StepItem(1, 0, ids, True, True)])
    # The library rounds what a quantised weight is multiplied with to 8 bits
    assert (logits - expected).abs().max() < 0.06 * expected.abs().max()
    runner.close()
