"""The cluster's benchmark measures what it says, here on engines of this process; tests/cluster has a real one."""

from __future__ import annotations

import argparse
import asyncio
from collections import defaultdict

import pytest

from benchmarks import cluster, timed_engine
from benchmarks.steadiness import Steadiness
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.testing.events import collect
from llmapi_kit.types import Delta


def timed(**options):
    return timed_engine.TimedEngine(**{"num_slots": 8, "step_s": 0.0, "block_s": 0.0, "num_blocks": 1000, **options})


def ask(engine, text, max_tokens=3):
    request = GenerationRequest(prompt=text, sampling=SamplingParams(max_tokens=max_tokens))
    return asyncio.run(collect(engine.generate(request)))


def test_the_timed_engine_reads_what_it_has_cached_only():
    engine = timed(num_blocks=4)
    first, second = "a" * 3 * timed_engine.BLOCK, "b" * 3 * timed_engine.BLOCK
    cached = [ask(engine, text)[-1].num_cached_tokens // timed_engine.TOKENS_PER_BLOCK for text in (first, first)]
    assert cached == [0, 3]
    ask(engine, second)
    assert ask(engine, first)[-1].num_cached_tokens == 0
    assert sum(isinstance(event, Delta) for event in ask(engine, first, 5)) == 5


@pytest.mark.slow
def test_everything_is_measured_and_named_as_the_simulation_reads_it(monkeypatch):
    monkeypatch.setattr(cluster, "STEP_S", 0.001)
    engines = {name: timed() for name in ("1", "2", "4", cluster.DEFAULT_ROUTER)}
    figures = defaultdict(list)
    args = argparse.Namespace(quick=True, min_s=0.01)
    asyncio.run(cluster.measure(engines, args, figures, Steadiness()))
    data = cluster.summary(figures)
    assert data["prefix_hit_rate"] == data["prefix_hit_rate_of_one_replica"] == pytest.approx(1 / 3)
    assert set(data["tokens_per_second"]) == {"1", "2", "4"}
    assert all(rate > 0 for rate in data["tokens_per_second"].values())
    for name in ("engine_step_s", "time_to_first_token_s", "request_overhead_s", "router_overhead_s"):
        assert isinstance(data[name], float)
    assert any(line.startswith("| 4 | ") for line in cluster.table(data))
