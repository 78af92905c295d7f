"""The OpenAPI document holds for requests that nobody thought of, by schemathesis.

Bodies that fit the document and bodies that don't, drawn the same way each time, go to a live server. Whatever it
answers must be documented, as to status, headers and body, and each event of a stream; errors come in OpenAI's shape.
"""

from __future__ import annotations

import json
from collections import Counter

import httpx
import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.config import load_settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.loading.load_request import make_engine

from .byte_bodies import mutated
from .conftest import KEY, serving

pytestmark = pytest.mark.slow

AUTHORIZED = {"Authorization": f"Bearer {KEY}"}
FITTING, WRONG = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
DOCUMENTED = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)
# Without what goes together only with something else
QUESTION = {
    "input": "one two three",
    "previous_response_id": None,
    "include": None,
    "top_logprobs": None,
    "tools": None,
    "tool_choice": None,
    "stream_options": None,
    "text": None,
    "reasoning": None,
}
SAID = {
    "messages": [{"role": "user", "content": "one two three"}],
    "system": "four",
    "tools": None,
    "tool_choice": None,
    "thinking": None,
    "output_config": None,
}
# What goes with which role, or instead of what, the document does not say: most bodies get this.
SENSIBLE = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "one two three"}]},
    "/v1/chat/completions/{completion_id}": {},
    "/v1/completions": {"prompt": "one two three"},
    "/v1/responses": {**QUESTION, "max_output_tokens": 4, "text": None, "reasoning": None, "store": None},
    "/v1/responses/input_tokens": QUESTION,
    "/v1/messages": {**SAID, "max_tokens": 4, "stop_sequences": None, "metadata": None},
    "/v1/messages/count_tokens": SAID,
    "/v1/embeddings": {"input": ["one", "two"]},
    "/v1/rerank": {"query": "one two", "documents": ["one", {"text": "two"}], "top_n": 1},
    "/v1/score": {"text_1": "one two", "text_2": ["one", "two"]},
    "/v1/images/generations": {"model": "mock", "prompt": "one two", "size": "64x64", "quality": None, "style": None},
    "/tokenize": {"prompt": "one two three", "messages": None},
    "/detokenize": {"tokens": [0, 1, 2]},
    "/chat": {"prompt": "one two three", "history": [["a", "b"]]},
    "/chat-stream": {"prompt": "one two three", "history": ["a", "b"]},
    "/embedding": {"prompt": ["one", "two"]},
}
# Their bodies are a part of others', or take long to be drawn.
FEWER = {
    "/v1/responses": 30,
    "/v1/responses/input_tokens": 15,
    "/v1/messages": 30,
    "/v1/messages/count_tokens": 15,
    "/tokenize": 30,
    "/v1/score": 30,
}
EVENTS = "/chat-sse"
SESSIONS = {("post", f"/v1/chat/{call}") for call in ("start", "ask", "end")}  # in test_session_openapi.py
STORED = "/v1/chat/completions/{completion_id}"
RESPONSE = "/v1/responses/{response_id}"
ASKED = (
    *("/v1/chat/completions", STORED, f"{STORED}/messages", RESPONSE, f"{RESPONSE}/input_items"),
    *("/v1/models", "/v1/models/{model}", "/healthz", "/readyz", "/version", "/metrics", "/v1/usage", EVENTS),
    *("/v1/key", "/v1/status"),
)
INVITATIONS = "/invitations"
# For what is refused or looked up before any engine is asked: on the engine that reads more of a request
on_one_engine = pytest.mark.parametrize("schema", ["pocket"], indirect=True)


@pytest.fixture(scope="module", params=["mock", "pocket"])
def schema(request, tmp_path_factory):
    """What a live server of a model says of itself."""
    # A short context, so that what is drawn never asks for long answers
    engines = [make_engine(parse_spec(request.param), load_settings(context_length=64))]
    if request.param != "mock":
        engines.append(MockEngine())  # it makes pictures
    with serving(tmp_path_factory.mktemp("home"), *engines) as server:
        document = schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers=AUTHORIZED).raw_schema
        for path in document["paths"].values():
            for operation in path.values():
                operation["security"] = []  # else every second request would differ in its key only
        # The same in other words: schemathesis makes the pattern one of 32,000 letters, half a second for each body
        prompt = document["components"]["schemas"]["ImageBody"]["properties"]["prompt"]
        assert prompt.pop("pattern") == r"\S"
        prompt["not"] = {"pattern": r"^\s*$"}
        made = schemathesis.openapi.from_dict(document)
        made.config.update(base_url=server.url)
        store(server.url)
        yield made


# By the name of a path's parameter, what makes something that it can name.
STORING = {
    "completion_id": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "one"}], "store": True, "max_tokens": 2},
    ),
    "response_id": ("/v1/responses", {"input": "one", "max_output_tokens": 2}),
}


def store(url, parameter="completion_id"):
    """Have an answer stored; returns its id."""
    path, body = STORING[parameter]
    return httpx.post(f"{url}{path}", json=body, headers=AUTHORIZED, trust_env=False, timeout=30).json()["id"]


def stored_for(operation):
    """(parameter, id) of a stored answer, for a path that names one."""
    named = [parameter for parameter in STORING if f"{{{parameter}}}" in operation.path]
    return {parameter: store(operation.base_url, parameter) for parameter in named}


def token_of(url):
    """What opens the route that takes no key."""
    return httpx.post(f"{url}{EVENTS}/token", headers=AUTHORIZED, trust_env=False, timeout=30).json()["token"]


def fuzz(operation, mode, checks=DOCUMENTED, num_examples=100):
    """Send what schemathesis draws; returns how many requests ended in each status."""
    statuses = Counter()
    stored = stored_for(operation)
    token = token_of(operation.base_url) if operation.path == EVENTS else ""

    @hypothesis.settings(
        max_examples=num_examples,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(
        case=operation.as_strategy(generation_mode=mode), is_sensible=st.sampled_from([True, True, True, False])
    )
    def send(case, is_sensible):
        if is_sensible and stored:
            case.path_parameters |= stored
        elif is_sensible and token:
            case.query = {**case.query, "model": "", "prompt": "one two three"}
            case.headers.pop("Last-Event-ID", None)
        elif is_sensible and mode is FITTING and operation.path in SENSIBLE and operation.method == "post":
            case.body = {**case.body, "model": None, **SENSIBLE[operation.path]}
        if token:
            case.query = {**case.query, "token": token}
        response = case.call_and_validate(headers=AUTHORIZED, timeout=30, checks=checks)
        assert response.headers["x-request-id"][0].startswith("req_")
        if response.status_code >= 400:
            error = response.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert error["message"]
        statuses[response.status_code] += 1

    send()
    return statuses


@pytest.mark.parametrize("path", SENSIBLE)
def test_bodies_that_fit_end_as_the_document_says(schema, path):
    num_examples = FEWER.get(path, 30)
    statuses = fuzz(schema[path]["POST"], FITTING, num_examples=num_examples)
    assert statuses[200] >= num_examples / 10, f"they hardly get anywhere: {statuses}"


@on_one_engine
@pytest.mark.parametrize("path", SENSIBLE)
def test_bodies_that_do_not_fit_are_refused(schema, path):
    statuses = fuzz(
        schema[path]["POST"], WRONG, (*DOCUMENTED, negative_data_rejection), num_examples=min(FEWER.get(path, 15), 15)
    )
    assert set(statuses) <= {400, 404}


@on_one_engine
@pytest.mark.parametrize("path", SENSIBLE)
def test_bytes_are_answered_as_the_document_says(schema, path):
    """Text in UTF-8 was all that was sent here, and half a surrogate as bytes was a 500."""
    operation = schema[path]["POST"]
    stored = stored_for(operation)
    body = json.dumps({"model": None, "max_tokens": 2, **SENSIBLE[path]}).encode()

    @hypothesis.settings(
        max_examples=15,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(content=mutated(body))
    def send(content):
        case = operation.Case(path_parameters=stored)
        response = client.post(case.formatted_path, content=content, headers=AUTHORIZED)
        assert response.status_code < 500, content
        assert str(response.status_code) in operation.definition.raw["responses"], content

    with httpx.Client(base_url=operation.base_url, trust_env=False, timeout=30) as client:
        send()


@on_one_engine
@pytest.mark.parametrize("path", ASKED)
def test_what_has_no_body_answers_as_the_document_says(schema, path):
    operation = schema[path]["GET"]
    is_asked_for_something = operation.path_parameters or operation.query
    fuzz(operation, FITTING, num_examples=20 if is_asked_for_something else 1)


@on_one_engine
@pytest.mark.parametrize("path", ["/v1/chat/completions", f"{STORED}/messages", f"{RESPONSE}/input_items", EVENTS])
def test_odd_queries_end_as_the_document_says(schema, path):
    # Some do fit, as a query has only texts; which are refused is in test_stored_completions.py
    assert fuzz(schema[path]["GET"], WRONG, num_examples=50)[400] >= 10


@on_one_engine
def test_what_is_posted_without_a_body_is_answered_as_the_document_says(schema):
    assert fuzz(schema[f"{EVENTS}/token"]["POST"], FITTING, num_examples=1) == {200: 1}


@on_one_engine
def test_codes_of_no_invitation_are_refused_as_the_document_says(schema):
    assert set(fuzz(schema[INVITATIONS]["POST"], FITTING, num_examples=40)) == {404, 429}
    assert set(fuzz(schema[INVITATIONS]["POST"], WRONG, num_examples=40)) <= {400, 404, 429}


@on_one_engine
@pytest.mark.parametrize("path", [STORED, RESPONSE])
def test_what_is_deleted_is_answered_as_the_document_says(schema, path):
    statuses = fuzz(schema[path]["DELETE"], FITTING, num_examples=20)
    assert set(statuses) == {200, 404}
    assert statuses[200] == 1


@on_one_engine
def test_what_is_cancelled_is_answered_as_the_document_says(schema):
    assert set(fuzz(schema[f"{RESPONSE}/cancel"]["POST"], FITTING, num_examples=20)) == {400, 404}


@on_one_engine
def test_no_operation_is_left_out(schema):
    operations = {(method, path) for path, methods in schema.raw_schema["paths"].items() for method in methods}
    posts, gets = {("post", path) for path in SENSIBLE}, {("get", path) for path in ASKED}
    others = {("delete", STORED), ("delete", RESPONSE), ("post", f"{RESPONSE}/cancel"), ("post", f"{EVENTS}/token")}
    others |= {("post", INVITATIONS), *(("post", f"/v1/{verb}_lora_adapter") for verb in ("load", "unload"))}
    assert operations - SESSIONS == posts | gets | others
