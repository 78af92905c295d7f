"""What processes counted is kept, in whatever order they said it and whenever they died. No process runs."""

from __future__ import annotations

from llmapi_kit.engines.process.counts import Counts
from llmapi_kit.types import EngineStats


def test_what_was_counted_before_a_death_is_kept_and_what_ran_is_not():
    counts = Counts()
    counts.begin("first")
    counts.heard("first", EngineStats(num_running=2, num_slots=4, num_finished=3, num_completion_tokens=30))
    counts.end("first")
    assert counts.total() == EngineStats(num_slots=4, num_finished=3, num_completion_tokens=30)
    counts.begin("second")
    counts.heard("second", EngineStats(num_running=1, num_slots=4, num_finished=1))
    assert counts.total() == EngineStats(num_running=1, num_slots=4, num_finished=4, num_completion_tokens=30)


def test_what_a_process_said_before_its_end_counts_when_it_is_heard_later():
    counts = Counts()
    for name in ("first", "second", "third"):
        counts.begin(name)
        counts.heard(name, EngineStats(num_finished=1))
        counts.end(name)
        counts.heard(name, EngineStats(num_finished=2))
    assert counts.total().num_finished == 6


def test_of_two_connections_the_one_that_is_behind_takes_nothing_back():
    counts = Counts()
    counts.begin("first")
    counts.heard("first", EngineStats(num_finished=2))
    counts.heard("first", EngineStats(num_finished=1))
    assert counts.total().num_finished == 2


def test_requests_that_no_process_told_of_are_counted():
    counts = Counts()
    counts.begin("first")
    counts.lost(num_finished=1, num_failed=2)
    assert (counts.total().num_finished, counts.total().num_failed) == (1, 2)
