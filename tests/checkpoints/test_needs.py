"""What a model would take, from its shape: the arithmetic, and the verdict beside a machine that is made up."""

from __future__ import annotations

import pytest

from llmapi_kit.checkpoints import fit, needs
from llmapi_kit.checkpoints.known_models import known_models
from llmapi_kit.checkpoints.needs import OVERHEAD_BYTES, load_options, needs_of, precisions_of
from llmapi_kit.config import Settings

GIB = 2**30
QWEN = next(each for each in known_models() if each.name == "Qwen/Qwen3-0.6B")


@pytest.fixture
def machine(monkeypatch):
    """Sets how much memory is free."""
    monkeypatch.setattr(needs, "_has_bitsandbytes", lambda: True)
    return lambda free: monkeypatch.setattr(fit, "free_memory", lambda device: free)


def of(model, precision, device="cpu", **settings):
    return needs_of(model.num_parameters, model.shape, precision, device, Settings(**settings))


@pytest.mark.parametrize(
    ("precision", "device", "weights", "per_token"),
    [
        ("float32", "cpu", 4 * 596_049_920, 2 * 28 * 8 * 128 * 4),
        ("bfloat16", "cpu", 2 * 596_049_920, 2 * 28 * 8 * 128 * 4),  # computed in float32
        ("bfloat16", "cuda:0", 2 * 596_049_920, 2 * 28 * 8 * 128 * 2),
        ("8bit", "cuda:0", 596_049_920, 2 * 28 * 8 * 128 * 2),
        ("int8", "cpu", 596_049_920, 2 * 28 * 8 * 128 * 4),
        ("int4", "cpu", int(0.65 * 596_049_920), 2 * 28 * 8 * 128 * 4),
    ],
)
def test_weights_and_context_follow_from_the_shape(machine, precision, device, weights, per_token):
    machine(64 * GIB)
    found = of(QWEN, precision, device)
    assert (found.fit.weights_bytes, found.fit.kv_bytes_per_token) == (weights, per_token)
    assert found.kv_bytes == per_token * 8192, "one request of the usual length"
    assert found.total_bytes == found.fit.weights_bytes + found.kv_bytes + found.overhead_bytes


def test_verdict_goes_from_fits_over_tight_to_too_large(machine):
    machine(64 * GIB)
    bare = of(QWEN, "bfloat16", "cuda:0").fit.weights_bytes + OVERHEAD_BYTES["cuda"]
    verdicts = []
    for room in (3 * GIB, GIB // 2, 2**20, -1):
        machine(bare + room)
        verdicts.append(of(QWEN, "bfloat16", "cuda:0").verdict)
    assert verdicts == ["fits", "tight", "too large", "too large"]


def test_what_is_planned_fits_into_what_is_free(machine):
    machine(8 * GIB)
    found = of(QWEN, "bfloat16", "cuda:0")
    assert found.plan is not None
    assert found.plan.num_slots >= 1
    assert found.fit.weights_bytes + found.plan.kv_bytes + OVERHEAD_BYTES["cuda"] <= 8 * GIB


@pytest.mark.parametrize(
    ("precision", "device", "stored", "options"),
    [
        ("float32", "cpu", "bfloat16", {"dtype": "float32"}),
        ("bfloat16", "cpu", "bfloat16", {}),
        ("float32", "cpu", "float16", {}),
        ("bfloat16", "cpu", "float32", {"dtype": "bfloat16"}),
        ("bfloat16", "cuda:0", "bfloat16", {}),
        ("bfloat16", "cuda:0", "float16", {}),
        ("float32", "cuda:0", "bfloat16", {"dtype": "float32"}),
        ("8bit", "cuda:0", "bfloat16", {"quantize": "8bit"}),
        ("int4", "cpu", "bfloat16", {"quantize": "int4"}),
    ],
)
def test_code_says_only_what_differs_from_the_device_s_own_choice(precision, device, stored, options):
    assert load_options(precision, device, stored) == options


def test_integers_are_offered_on_a_cpu_for_families_of_the_compiled_step(machine):
    machine(64 * GIB)
    phi = next(each for each in known_models() if "Phi" in each.name)
    assert of(QWEN, "int8").verdict == "fits"
    assert of(QWEN, "int8", "cuda:0").obstacle == "needs a CPU"
    assert (of(phi, "int4").verdict, of(phi, "int4").obstacle) == ("not here", "not of this family")
    assert precisions_of("cpu") == ("bfloat16", "float32", "int8", "int4")
    assert precisions_of("cuda:1") == ("bfloat16", "float32", "8bit")


def test_eight_bits_are_not_offered_on_a_cpu_nor_without_their_package(machine, monkeypatch):
    machine(64 * GIB)
    assert (of(QWEN, "8bit").verdict, of(QWEN, "8bit").obstacle) == ("not here", "needs a GPU")
    monkeypatch.setattr(needs, "_has_bitsandbytes", lambda: False)
    assert "pip install" in of(QWEN, "8bit", "cuda:0").obstacle
