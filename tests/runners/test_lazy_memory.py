from __future__ import annotations

import mmap

import pytest
import torch

from llmapi_kit.runners.base import PagedRunner, StepItem
from llmapi_kit.runners.lazy_memory import LazyMemory
from llmapi_kit.runners.torch_runner import TorchRunner
from tests.batching.conftest import Bench

from .conftest import VOCAB, make_tiny

# A page of the system holds 64 positions of a head at most: 16 numbers of 4 bytes
FORMS = {"native": {}, "torch": {"native": False}}
LENGTH = 256


@pytest.fixture(scope="module", params=sorted(FORMS))
def make_runner(request):
    """Makes a runner for the same small model each time, with pages for so many."""

    def make(num_pages=None):
        model = make_tiny("qwen2")
        return TorchRunner(model, num_slots=3, max_length=LENGTH, num_pages=num_pages, **FORMS[request.param])

    return make


def test_whole_pages_are_given_back_and_nothing_beside_them():
    memory = LazyMemory(8 * mmap.PAGESIZE)
    memory.buffer[:] = b"\x01" * len(memory.buffer)
    memory.give_back([(mmap.PAGESIZE // 2, 3 * mmap.PAGESIZE + 1), (5 * mmap.PAGESIZE, 5 * mmap.PAGESIZE)])
    given_back = set(range(mmap.PAGESIZE, 3 * mmap.PAGESIZE))
    assert [i for i, each in enumerate(memory.buffer[:]) if each == 0] == sorted(given_back)


def test_a_slot_that_is_trimmed_keeps_its_start_and_harms_no_other(make_runner):
    runner = make_runner()
    assert isinstance(runner, PagedRunner)
    ids = torch.randint(3, VOCAB, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    runner.step([StepItem(slot, 0, ids, False) for slot in range(3)])
    expected = runner.step([StepItem(slot, 200, [7], True) for slot in range(3)]).clone()
    runner.trim(1, 64)
    runner.step([StepItem(1, 64, ids[64:], False)])
    again = runner.step([StepItem(slot, 200, [7], True) for slot in range(3)])
    torch.testing.assert_close(again, expected)


def test_what_a_slot_gives_back_is_memory(make_runner):
    """Of each layer and head there are zeros, which only new pages have."""
    runner = make_runner()
    memory = runner._native._memory if runner._native else runner._memory.layers[0][0]
    runner.step([StepItem(slot, 0, [5] * LENGTH, False) for slot in range(3)])
    assert memory[1].any()
    runner.trim(1, 0)
    assert not memory[1, ..., mmap.PAGESIZE : -mmap.PAGESIZE].any() if runner._native else not memory[1].any()
    assert memory[0].any()
    assert memory[2].any()


@pytest.mark.slow
def test_greedy_and_seeded_answers_outlive_preemption(make_runner):
    answers = {}
    for num_pages in (4, 12):
        bench = Bench(runner=make_runner(num_pages))
        requests = [
            bench.submit([i + 5] * 30, max_tokens=120, name=str(i), seed=i, temperature=i % 2) for i in range(4)
        ]
        for request in requests:
            bench.result(request)
        answers[num_pages] = [request.output_ids for request in requests]
        preemptions = bench.loop.stats().num_preemptions
        assert bench.loop.close()
        assert (preemptions > 0) == (num_pages == 4)
    assert answers[4] == answers[12]
