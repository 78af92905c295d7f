"""A model that is unloaded leaves nothing on the device."""

from __future__ import annotations

import pytest

import llmapi_kit as kit

from .devices import DEVICE, IS_CUDA, allocated_bytes, reserved_bytes
from .models import write_model

pytestmark = pytest.mark.gpu

MIB = 2**20
# Between two loads: of tensors; of what the allocator holds, which comes in blocks of 2 and of 20 MiB
ALLOCATED_MARGIN, RESERVED_MARGIN = MIB, 20 * MIB


def use(folder):
    """Load, ask, unload; the bytes that were allocated meanwhile."""
    model = kit.load(str(folder), device=str(DEVICE), max_slots=4, native=False, compile=False)
    try:
        assert model.info.device == str(DEVICE)
        model.ask("Hello", max_tokens=12, temperature=0, ignore_eos=True)
        return allocated_bytes()
    finally:
        model.close()


def test_unloading_gives_memory_back_to_the_level_before(tmp_path, record_property):
    """The first load leaves what CUDA's libraries keep for good, so the second one is measured."""
    weights = write_model(tmp_path / "model")
    fresh = allocated_bytes()
    use(tmp_path / "model")
    before = allocated_bytes(), reserved_bytes()
    during = use(tmp_path / "model")
    after = allocated_bytes(), reserved_bytes()
    shown = {"kept by libraries": before[0] - fresh, "loaded": during - before[0], "left": after[0] - before[0]}
    record_property("MiB", {name: round(size / MIB, 1) for name, size in shown.items()})
    record_property("reserved MiB", [round(each[1] / MIB, 1) for each in (before, after)])
    assert during - before[0] >= weights * (1 if IS_CUDA else 0.9)
    assert after[0] - before[0] <= ALLOCATED_MARGIN
    assert after[1] - before[1] <= RESERVED_MARGIN
