"""What the OpenAPI document says of the session API holds, for requests that nobody thought of."""

from __future__ import annotations

from collections import Counter

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from llmapi_kit.engines.mock import MockEngine

from .conftest import KEY, serving

DOCUMENTED = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)
MODES = {"fitting": schemathesis.GenerationMode.POSITIVE, "wrong": schemathesis.GenerationMode.NEGATIVE}


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("home"), MockEngine(), max_sessions=100_000) as server:
        url = f"{server.url}/openapi.json"
        document = schemathesis.openapi.from_url(url, headers={"Authorization": f"Bearer {KEY}"}).raw_schema
        for path in document["paths"].values():
            for operation in path.values():
                operation["security"] = []  # else every second request would differ in its key only
        made = schemathesis.openapi.from_dict(document)
        made.config.update(base_url=server.url)
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("call", ["start", "ask", "end"])
def test_whatever_comes_is_answered_as_the_document_says(schema, call, mode):
    codes = Counter()

    @hypothesis.settings(
        max_examples=60,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(
        case=schema[f"/v1/chat/{call}"]["POST"].as_strategy(generation_mode=MODES[mode]),
        is_sensible=hypothesis.strategies.booleans(),
    )
    def send(case, is_sensible):
        if is_sensible and call == "start" and mode == "fitting":
            case.body = {**case.body, "bot_type": "mock", "settings": None}
        response = case.call_and_validate(headers={"Authorization": f"Bearer {KEY}"}, timeout=30, checks=DOCUMENTED)
        assert response.headers["x-request-id"][0].startswith("req_")
        codes[response.json()["code"]] += 1

    send()
    expected = {"start": {0, -3, -5}, "ask": {-3, -4}, "end": {-3, -4}}[call] if mode == "fitting" else {-3, -4, -5}
    assert set(codes) <= expected, codes


def test_key_refusals_and_streams_are_described(schema):
    for call in ("start", "ask", "end"):
        operation = schema.raw_schema["paths"][f"/v1/chat/{call}"]["post"]
        assert set(operation["responses"]) == {"200", "401", "403"}
    asked = schema.raw_schema["paths"]["/v1/chat/ask"]["post"]["responses"]["200"]["content"]
    assert set(asked) == {"application/json", "text/event-stream"}
