from __future__ import annotations

import random

import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from llmapi_kit.checkpoints.model_decoder import weights_of_model
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.native import decoder, packed_weights
from llmapi_kit.runners.native.decoder import NativeDecoder
from tests.runners.conftest import VOCAB, make_tiny


def make(num_threads=1, num_slots=4, max_length=96, family="llama"):
    weights = weights_of_model(make_tiny(family))
    return NativeDecoder(weights, num_slots=num_slots, max_length=max_length, num_threads=num_threads)


def prompts():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, VOCAB, (length,), generator=generator).tolist() for length in (70, 1, 33, 17)]


def test_several_threads_compute_what_one_does(monkeypatch):
    monkeypatch.setattr(decoder, "SHARED_FROM", 0)
    monkeypatch.setattr(decoder, "SHARED_PER_PROMPT", 0)
    alone, shared = make(), make(num_threads=3)
    items = [StepItem(slot, 0, ids, True, wants_every=True) for slot, ids in enumerate(prompts())]
    later = [StepItem(slot, len(ids), [9], True) for slot, ids in enumerate(prompts())]
    for step in (items, later, later):
        expected, got = alone.step(step), shared.step(step)
        assert torch.equal(got[0], expected[0])
        assert torch.equal(got[1], expected[1])
    shared.close()


@pytest.mark.parametrize("seed", range(16))
def test_any_shape_in_any_chunks_gives_the_models_own_logits(seed):
    """Heads narrower and wider than the processor's vectors, in groups of any size, with and without a window."""
    source = random.Random(seed)
    torch.manual_seed(seed)
    kv_heads, group = source.choice([1, 2, 3]), source.choice([1, 2, 3, 7, 8])
    shape = {
        "vocab_size": VOCAB,
        "hidden_size": kv_heads * group * source.choice([2, 4, 6]),
        "intermediate_size": source.choice([40, 96]),
        "num_hidden_layers": 2,
        "num_attention_heads": kv_heads * group,
        "num_key_value_heads": kv_heads,
        "head_dim": (8, 16, 24, 32, 40, 48, 80, 128)[seed % 8],
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
    }
    if seed % 3:
        model = LlamaForCausalLM(LlamaConfig(**shape)).eval()
    else:
        model = MistralForCausalLM(MistralConfig(**shape, sliding_window=source.choice([7, 33]))).eval()
    length = source.randint(20, 200)
    ids, others = ([source.randrange(VOCAB) for _ in range(length)] for _ in range(2))
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0]
    native = NativeDecoder(weights_of_model(model), num_slots=3, max_length=length, num_threads=1)
    got, at, other_at = [], 0, 0
    while at < length:
        chunk, other = ids[at : at + source.choice([1, 2, 5, 9, 40])], others[other_at : other_at + 3]
        items = [StepItem(1, at, chunk, True, wants_every=True)]
        if other and source.random() < 0.5:
            items.insert(source.choice([0, 1]), StepItem(2, other_at, other, False))
            other_at += len(other)
        got.append(native.step(items)[0].clone())
        at += len(chunk)
    torch.testing.assert_close(torch.cat(got), expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def test_a_slots_answer_does_not_depend_on_what_runs_beside_it():
    """Sums are made in the same order whatever the batch, so answers repeat bit for bit."""
    items = [StepItem(slot, 0, ids, True) for slot, ids in enumerate(prompts())]
    together = make().step(items)[0]
    for item, row in zip(items, together, strict=True):
        assert torch.equal(make().step([item])[0][0], row)


@pytest.mark.parametrize(
    "item", [StepItem(0, 0, [VOCAB], True), StepItem(0, 0, [-1], True), StepItem(0, 96, [5], True)]
)
def test_what_lies_outside_of_memory_is_refused(item):
    with pytest.raises(IndexError, match=f"not below {VOCAB} or a position not below 96"):
        make().step([item])


def test_kv_memory_takes_room_only_where_it_was_written():
    before = psutil.Process().memory_info().rss
    long = make(num_slots=64, max_length=512)
    kept = [make(num_slots=64, max_length=512) for _ in range(8)]
    long.step([StepItem(slot, 0, [5], True) for slot in range(4)])
    grown = psutil.Process().memory_info().rss - before
    assert sum(each.num_bytes for each in (long, *kept)) > 4 * grown


def test_a_step_that_wants_less_than_the_one_before_gives_its_own_logits_only():
    made, fresh = make(), make()
    made.step([StepItem(slot, 0, [5 + slot], True) for slot in range(2)])
    items = [StepItem(0, 1, [7], False), StepItem(1, 1, [8], True)]
    fresh.step([StepItem(slot, 0, [5 + slot], True) for slot in range(2)])
    logits = made.step(items)[0]
    assert logits.shape == (1, made.vocab_size)
    assert torch.equal(logits, fresh.step(items)[0])


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_weights_in_bfloat16_compute_in_float32_what_widened_ones_do(family):
    """Bit for bit, whatever the processor multiplies bfloat16 with; a lone row and several take different ways."""
    models = make_tiny(family).bfloat16().float(), make_tiny(family).bfloat16()
    widened, kept = map(weights_of_model, models)
    expected = NativeDecoder(widened, num_slots=4, max_length=96, num_threads=1)
    native = NativeDecoder(kept, num_slots=4, max_length=96, num_threads=1, dtype=torch.float32)
    items = [StepItem(slot, 0, ids, True, wants_every=True) for slot, ids in enumerate(prompts())]
    for step in (items, [StepItem(2, 33, [7], True)]):
        assert torch.equal(native.step(step)[0], expected.step(step)[0])
    assert native.num_bytes == expected.num_bytes


def test_each_matrix_leaves_the_weights_before_the_next_is_packed(monkeypatch):
    model, left = make_tiny("llama"), []
    weights = weights_of_model(model)
    monkeypatch.setattr(
        packed_weights, "drop_pages", lambda rows: left.append(sum(each.numel() for each in weights.tensors.values()))
    )
    assert sum(parameter.numel() for parameter in model.parameters()) == 0
    NativeDecoder(weights, num_slots=1, max_length=32, num_threads=1)
    assert left == sorted(left, reverse=True)
    assert len(set(left)) == len(left) == 7 * 3 + 2
    assert not weights.tensors
