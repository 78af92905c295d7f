"""Requests are counted by the events that pass, whatever becomes of those who answer."""

from __future__ import annotations

import pytest

from llmapi_kit.cluster.replica import Report
from llmapi_kit.cluster.request_counts import RequestCounts
from llmapi_kit.errors import GenerationError, InvalidRequestError
from llmapi_kit.types import Accepted, Delta, EngineStats, Failed, Finished


def counted(events, num_answers=1):
    counts = RequestCounts()
    with counts.request(num_answers) as request:
        for event in events:
            request.record(event)
    return counts.stats()


def test_an_answer_is_counted_with_its_tokens():
    stats = counted([Accepted(3), Delta("a"), Delta("bc", 2), Finished("stop", 3, 3, num_cached_tokens=2)])
    assert (stats.num_finished, stats.num_failed, stats.num_cancelled) == (1, 0, 0)
    assert (stats.num_prompt_tokens, stats.num_cached_tokens, stats.num_completion_tokens) == (3, 2, 3)
    assert (stats.num_running, stats.num_queued) == (0, 0)
    assert (sum(stats.ttft.counts), sum(stats.inter_token.counts)) == (1, 1)


def test_several_answers_are_one_request():
    ends = [Finished("stop", 3, 1, index=index) for index in (1, 0)]
    stats = counted([Accepted(3), Delta("a", index=0), Delta("b", index=1), *ends], num_answers=2)
    assert (stats.num_finished, stats.num_prompt_tokens) == (1, 3)
    assert counted([Accepted(3), Delta("a"), ends[0]], num_answers=2).num_cancelled == 1


def test_failures_and_clients_that_left_are_told_apart():
    assert counted([Accepted(1), Delta("a"), Failed(GenerationError("no"))]).num_failed == 1
    stats = counted([Accepted(1), Delta("a")])
    assert (stats.num_cancelled, stats.num_failed, stats.num_running) == (1, 0, 0)


def test_a_refused_request_is_none_that_was_left():
    counts = RequestCounts()
    with pytest.raises(InvalidRequestError), counts.request(1):
        raise InvalidRequestError("no")
    assert counts.stats().num_cancelled == counts.stats().num_queued == 0


def test_a_request_waits_until_its_first_token():
    counts = RequestCounts()
    with counts.request(1) as request:
        request.record(Accepted(1))
        assert (counts.stats().num_queued, counts.stats().num_running) == (1, 0)
        request.record(Delta("a"))
        assert (counts.stats().num_queued, counts.stats().num_running) == (0, 1)


def test_slots_are_those_of_all_replicas_that_answered_lately():
    counts = RequestCounts()
    for name, use in (("a", 0.5), ("b", 1.0), ("a", 0.0)):
        counts.report(Report(name, EngineStats(num_slots=4, kv_use=use, num_finished=9)))
    assert (counts.stats().num_slots, counts.stats().kv_use, counts.stats().num_finished) == (8, 0.5, 0)
