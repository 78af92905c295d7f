"""Beam searches in the queue: their slots, their end, and their neighbours; what they find is an engine's test."""

from __future__ import annotations

import threading

from llmapi_kit.errors import EngineUnavailableError, GenerationError
from llmapi_kit.types import Failed, Finished

from .conftest import DEADLINE_S, text_of


def test_a_search_gives_its_n_answers_and_frees_every_slot(bench):
    b = bench(num_slots=4)
    request = b.submit_beams([1, 2, 3], 4, n=2, max_tokens=5)
    b.wait_for(lambda: sum(isinstance(e, Finished) for e in b._events.get(request.id, [])) == 2)
    ends = [e for e in b.events(request) if isinstance(e, Finished)]
    assert [e.index for e in ends] == [0, 1]
    assert (ends[0].reason, ends[0].num_completion_tokens) == ("length", 5)
    b.wait_for(lambda: sorted(b.runner.freed) == [0, 1, 2, 3])
    assert b.loop.stats().num_finished == 1


def test_a_search_waits_until_all_of_its_slots_are_free_and_is_not_overtaken(bench):
    others_are_there = threading.Event()
    b = bench(num_slots=3, before_step=lambda items: len(b.runner.steps) != 1 or others_are_there.wait(DEADLINE_S))
    first = b.submit([9], max_tokens=12, name="first")
    b.wait_for(lambda: b._events.get("first"))
    search = b.submit_beams([1, 2], 3, max_tokens=3, name="search")
    last = b.submit([7], max_tokens=1, name="last")
    others_are_there.set()
    for request in (first, search, last):
        b.result(request)
    order = [request.id for batch in b.batches for request, event in batch if isinstance(event, Finished)]
    assert order == ["first", "search", "last"]


def test_a_cancelled_search_frees_every_slot(bench):
    has_forked, is_cancelled = threading.Event(), threading.Event()

    def hold(items):
        if len(items) == 3:
            has_forked.set()
            assert is_cancelled.wait(DEADLINE_S)

    b = bench(num_slots=3, before_step=hold)
    search = b.submit_beams([1, 2], 3, max_tokens=50, name="search")
    assert has_forked.wait(DEADLINE_S)
    b.loop.abort(search)
    is_cancelled.set()
    after = b.submit([5, 6], max_tokens=4, name="after")
    assert b.result(after)[0] == text_of(b.runner.expected([5, 6], 4))
    assert sorted(b.runner.freed[:3]) == [0, 1, 2]
    assert b.events(search) == []


def test_a_search_that_fails_fails_alone_and_once(bench):
    b = bench(num_slots=4, poison=11)
    fine = b.submit([4, 5], max_tokens=30, name="fine")
    search = b.submit_beams([1, 11], 3, max_tokens=5, name="search")
    _, end = b.result(search)
    assert isinstance(end, Failed)
    assert isinstance(end.error, GenerationError)
    assert b.result(fine)[0] == text_of(b.runner.expected([4, 5], 30))


def test_closing_ends_running_and_waiting_searches_once(bench):
    is_closing = threading.Event()
    b = bench(num_slots=2, before_step=lambda items: len(items) < 2 or is_closing.wait(DEADLINE_S))
    running = b.submit_beams([1, 2], 2, max_tokens=50, name="running")
    waiting = b.submit_beams([3, 4], 2, max_tokens=50, name="waiting")
    closer = threading.Thread(target=b.loop.close)
    closer.start()
    is_closing.set()
    closer.join(DEADLINE_S)
    for request in (running, waiting):
        _, end = b.result(request)
        assert isinstance(end.error, EngineUnavailableError)
