"""Steps with weights, keys and values as integers compute what the same numbers give as floats."""

from __future__ import annotations

import pytest
import torch

from llmapi_kit.checkpoints.integer_weights import ROUNDED, IntegerFormat
from llmapi_kit.checkpoints.model_decoder import weights_of_model
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.native import compiler, decoder
from llmapi_kit.runners.native.compiler import load_library
from llmapi_kit.runners.native.decoder import NativeDecoder
from llmapi_kit.runners.native.reference import last_logits
from llmapi_kit.runners.native.runner import NativeRunner
from tests.runners.conftest import VOCAB, make_tiny

IDS = [(31 * i + 5) % VOCAB for i in range(50)]


def rounded(family, form):
    weights = weights_of_model(make_tiny(family))
    weights.round_to(form)
    return weights


def step(native, slot=1):
    native.step([StepItem(slot, 0, IDS[:20], False)])
    native.step([StepItem(slot, 20, IDS[20:49], False)])
    return native.step([StepItem(slot, 49, IDS[49:], True)])[0].clone()


@pytest.mark.parametrize(
    "form", [*ROUNDED.values(), IntegerFormat(4, 128)], ids=lambda form: f"{form.bits}-{form.group}"
)
@pytest.mark.parametrize("family", ["llama", "qwen2 with a sliding window", "qwen3"])
def test_logits_are_those_of_the_rounded_weights(family, form):
    weights = rounded(family, form)
    expected = last_logits(weights, IDS)
    got = step(NativeDecoder(weights, num_slots=2, max_length=64, num_threads=1))
    torch.testing.assert_close(got, expected, atol=2e-4 * float(expected.abs().max()), rtol=0)


@pytest.mark.slow
def test_processors_with_short_vectors_compute_the_same(monkeypatch):
    flags = tuple(flag for flag in compiler.FLAGS if flag != "-march=native")
    monkeypatch.setattr(compiler, "FLAGS", flags)
    monkeypatch.setattr(decoder, "load_library", load_library.__wrapped__)
    weights = rounded("qwen3", ROUNDED["int4"])
    expected = last_logits(weights, IDS)
    got = step(NativeDecoder(weights, num_slots=2, max_length=64, num_threads=1, kv_dtype=torch.int8))
    torch.testing.assert_close(got, expected, atol=5e-3 * float(expected.abs().max()), rtol=0)


def test_an_answer_does_not_depend_on_threads_or_on_what_runs_beside_it(monkeypatch):
    monkeypatch.setattr(decoder, "SHARED_FROM", 0)
    alone = step(NativeDecoder(rounded("llama", ROUNDED["int4"]), num_slots=3, max_length=64, num_threads=1))
    shared = NativeDecoder(rounded("llama", ROUNDED["int4"]), num_slots=3, max_length=64, num_threads=3)
    shared.step([StepItem(0, 0, IDS[7:30], False), StepItem(1, 0, IDS[:20], False)])
    shared.step([StepItem(1, 20, IDS[20:49], False), StepItem(2, 0, IDS[:5], True)])
    beside = shared.step([StepItem(0, 23, [9], True), StepItem(1, 49, IDS[49:], True)])[0][1]
    assert torch.equal(beside, alone[0])
    shared.close()


@pytest.mark.parametrize(("kv_dtype", "most"), [(torch.bfloat16, 0.003), (torch.int8, 0.006)])
@pytest.mark.parametrize("family", ["llama", "qwen2 with a sliding window"])
def test_keys_and_values_in_fewer_bits_change_logits_by_little(family, kv_dtype, most):
    weights = weights_of_model(make_tiny(family))
    expected = last_logits(weights, IDS)
    native = NativeDecoder(weights, num_slots=2, max_length=64, num_threads=1, kv_dtype=kv_dtype)
    difference = (step(native) - expected).abs().max() / expected.abs().max()
    assert 0 < float(difference) < most


def test_keys_and_values_in_fewer_bits_take_less_memory_and_are_copied_with_a_prefix():
    made = {
        kv_dtype: NativeRunner(
            weights_of_model(make_tiny("qwen2")), num_slots=2, max_length=64, dtype=torch.float32, kv_dtype=kv_dtype
        )
        for kv_dtype in (None, torch.bfloat16, torch.int8)
    }
    assert made[torch.bfloat16].kv_bytes == made[None].kv_bytes / 2
    assert made[torch.int8].kv_bytes < 0.6 * made[torch.bfloat16].kv_bytes + made[None].kv_bytes / 16
    for runner in made.values():
        runner.step([StepItem(0, 0, IDS[:30], False)])
        runner.copy_prefix(0, 1, 30)
        both = runner.step([StepItem(0, 30, [7], True), StepItem(1, 30, [7], True)])
        assert torch.equal(both[0], both[1])


def test_what_is_hidden_adds_nothing_at_all():
    """A vanishing share of later tokens once came through, and grew where a row of zeros was normed layer for layer."""
    weights = weights_of_model(make_tiny("llama"))
    weights.tensors["model.embed_tokens.weight"][3] = 0
    native = NativeDecoder(weights, num_slots=1, max_length=32, num_threads=1)
    states = native.step([StepItem(0, 0, [3, 3, 3, 50, 51], True)])[1]
    assert bool((states[:3] == 0).all())
