from __future__ import annotations

import psutil
import pytest
import torch

from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.native import decoder
from llmapi_kit.runners.native.decoder import NativeDecoder
from tests.runners.conftest import VOCAB, make_tiny


def make(num_threads=1, num_slots=4, max_length=96, family="llama"):
    return NativeDecoder(make_tiny(family), num_slots=num_slots, max_length=max_length, num_threads=num_threads)


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
