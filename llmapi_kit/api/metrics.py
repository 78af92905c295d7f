"""GET /metrics: counters and latency histograms of every model, in Prometheus' text format.

Reads the engines' own statistics when it is asked; nothing is counted twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response

from llmapi_kit.api.routes import LocalRoute
from llmapi_kit.api.state import state_of
from llmapi_kit.engines.base import Engine
from llmapi_kit.types import LATENCY_BOUNDS_S, EngineStats, Latencies

router = APIRouter(route_class=LocalRoute, tags=["health"])

Value = Callable[[EngineStats], float]
GAUGES: dict[str, tuple[str, Value]] = {
    "requests_running": ("Requests that hold a slot.", lambda s: s.num_running),
    "requests_queued": ("Requests that wait for a slot.", lambda s: s.num_queued),
    "slots": ("Requests that can run at once.", lambda s: s.num_slots),
    "kv_use_ratio": ("Share of the KV memory that holds something.", lambda s: s.kv_use),
    "tokens_per_second": ("Tokens made a second, lately.", lambda s: s.tokens_per_s),
}
COUNTERS: dict[str, tuple[str, Value]] = {
    "requests_finished": ("Requests answered in full.", lambda s: s.num_finished),
    "requests_failed": ("Requests that ended in an error.", lambda s: s.num_failed),
    "requests_cancelled": ("Requests whose client left.", lambda s: s.num_cancelled),
    "preemptions": ("Times that a request lost its slot, as KV memory ran out.", lambda s: s.num_preemptions),
    "prompt_tokens": ("Prompt tokens computed or reused.", lambda s: s.num_prompt_tokens),
    "cached_prompt_tokens": ("Prompt tokens reused from the prefix cache.", lambda s: s.num_cached_tokens),
    "completion_tokens": ("Tokens made.", lambda s: s.num_completion_tokens),
    "guessed_tokens": ("Tokens that were guessed and computed.", lambda s: s.num_guessed_tokens),
    "right_guesses": ("Guessed tokens that were what the model chose.", lambda s: s.num_right_guesses),
    "model_loads": ("Times that the model was loaded when it was asked for.", lambda s: s.num_loads),
    "model_load_failures": ("Times that loading it failed.", lambda s: s.num_failed_loads),
    "model_unloads": ("Times that it was unloaded, idle or to make room.", lambda s: s.num_unloads),
    "model_load_seconds": ("Seconds that loading it took in all.", lambda s: s.load_s),
}
HISTOGRAMS: dict[str, tuple[str, Callable[[EngineStats], Latencies]]] = {
    "time_to_first_token_seconds": ("From a request's arrival to its first token.", lambda s: s.ttft),
    "inter_token_seconds": ("Between two tokens of a request.", lambda s: s.inter_token),
}


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Counters and histograms of every model."""
    registry = CollectorRegistry()
    registry.register(_Engines(state_of(request).catalog.all()))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _Engines(Collector):
    """One snapshot of all engines."""

    def __init__(self, engines: list[Engine]) -> None:
        self._stats = [(engine.info.id, engine.stats()) for engine in engines]
        self._is_loaded = {engine.info.id: engine.readiness().state == "loaded" for engine in engines}

    def collect(self) -> Iterator[Metric]:
        loaded = GaugeMetricFamily("llmapi_kit_model_loaded", "Whether the model is in memory.", labels=["model"])
        for model, is_loaded in self._is_loaded.items():
            loaded.add_metric([model], is_loaded)
        yield loaded
        for name, (text, value) in GAUGES.items():
            gauge = GaugeMetricFamily(f"llmapi_kit_{name}", text, labels=["model"])
            for model, stats in self._stats:
                gauge.add_metric([model], value(stats))
            yield gauge
        for name, (text, value) in COUNTERS.items():
            counter = CounterMetricFamily(f"llmapi_kit_{name}", text, labels=["model"])
            for model, stats in self._stats:
                counter.add_metric([model], value(stats))
            yield counter
        for name, (text, latencies) in HISTOGRAMS.items():
            histogram = HistogramMetricFamily(f"llmapi_kit_{name}", text, labels=["model"])
            for model, stats in self._stats:
                observed = latencies(stats)
                histogram.add_metric([model], _cumulative(observed), observed.total_s)
            yield histogram


def _cumulative(latencies: Latencies) -> list[tuple[str, float]]:
    buckets: list[tuple[str, float]] = []
    seen = 0
    for bound, count in zip((*map(str, LATENCY_BOUNDS_S), "+Inf"), latencies.counts, strict=True):
        seen += count
        buckets.append((bound, seen))
    return buckets
