from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmapi_kit.types import Latencies

from .conftest import chat


def read(client):
    text = client.get("/metrics").text
    return {
        (sample.name, sample.labels.get("le")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_requests_tokens_and_latencies(serve, http, local_engine):
    client = http(serve(local_engine()))
    for _ in range(3):
        client.post("/v1/chat/completions", json=chat("a b c d e f g h", max_tokens=4))
    found = read(client)
    assert found["llmapi_kit_requests_finished_total", None] == 3
    assert found["llmapi_kit_completion_tokens_total", None] == 12
    assert found["llmapi_kit_prompt_tokens_total", None] == 24
    assert found["llmapi_kit_cached_prompt_tokens_total", None] == 14
    assert found["llmapi_kit_time_to_first_token_seconds_count", None] == 3
    assert found["llmapi_kit_inter_token_seconds_count", None] == 9
    assert found["llmapi_kit_inter_token_seconds_bucket", "+Inf"] == 9
    assert 0 < found["llmapi_kit_kv_use_ratio", None] < 1


@pytest.mark.kernel
def test_quantiles_are_upper_bounds_of_their_bucket():
    latencies = Latencies()
    assert latencies.quantile(0.5) == 0
    for seconds in [0.0015] * 98 + [0.4, 100]:
        latencies.observe(seconds)
    assert (latencies.quantile(0.5), latencies.quantile(0.99)) == (0.002, 0.5)
    assert latencies.quantile(1) == float("inf")
