"""The OpenAPI document: valid, whole, and true as to keys and examples."""

from __future__ import annotations

import json
import re

import pytest
import schemathesis

from .conftest import KEY

POST = (
    *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize"),
    *("/chat", "/chat-stream", "/embedding"),
)


@pytest.fixture
def server(pocket_server):
    return pocket_server


@pytest.fixture
def client(server, http):
    return http(server)


@pytest.fixture
def document(client):
    return client.get("/openapi.json").json()


def operations(document):
    return [(path, method, each) for path, methods in document["paths"].items() for method, each in methods.items()]


@pytest.mark.slow
def test_it_is_valid_and_every_reference_leads_somewhere(document):
    schemathesis.openapi.from_dict(document).validate()
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document))):
        part = document
        for name in reference.split("/"):
            part = part[name]


def test_it_is_the_same_each_time(client, document):
    assert client.get("/openapi.json").json() == document


def test_operations_have_names_of_their_own_and_a_summary(document):
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    assert all(operation["summary"] for _, _, operation in operations(document))


def test_every_answer_has_a_schema_and_an_id(document):
    for path, _, operation in operations(document):
        for status, response in operation["responses"].items():
            if "$ref" in response:
                response = document["components"]["responses"][response["$ref"].rpartition("/")[2]]
            assert response["headers"]["x-request-id"], (path, status)
            assert all(content["schema"] for content in response.get("content", {}).values()), (path, status)


def test_errors_are_in_openais_shape_and_there_is_no_422(document):
    responses = document["components"]["responses"].values()
    assert {each["content"]["application/json"]["schema"]["$ref"] for each in responses} == {
        "#/components/schemas/Error"
    }
    assert not any("422" in operation["responses"] for _, _, operation in operations(document))
    assert not any("Validation" in name for name in document["components"]["schemas"])


def test_what_it_says_of_keys_is_so(server, http, document):
    stranger = http(server, headers={"Authorization": ""})
    for path, method, operation in operations(document):
        response = stranger.request(method, re.sub(r"\{\w+\}", "pocket", path))
        is_keyed = operation["security"] != []
        assert is_keyed == ("401" in operation["responses"]), path
        assert is_keyed == (response.status_code == 401), path


def test_each_header_that_it_names_for_the_key_opens(server, http, document):
    stranger = http(server)
    del stranger.headers["authorization"]
    schemes = document["components"]["securitySchemes"]
    headers = {scheme["name"] for scheme in schemes.values() if scheme.get("in") == "header"}
    assert headers == {"x-api-key", "api-key"}
    operation = document["paths"]["/v1/models"]["get"]
    assert operation["security"] == [{"key": []}, {"x-api-key": []}, {"api-key": []}]
    for name in headers:
        assert stranger.get("/v1/models", headers={name: KEY}).status_code == 200


@pytest.mark.parametrize("path", POST)
def test_every_example_works(client, document, path):
    content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    assert content["examples"]
    for example in content["examples"].values():
        response = client.post(path, json=example["value"])
        assert response.status_code == 200, (example, response.text)


def test_bodies_take_no_other_fields_unless_they_are_null(client, document):
    bodies = [schema for name, schema in document["components"]["schemas"].items() if name.endswith("Body")]
    assert bodies
    assert {json.dumps(schema["additionalProperties"]) for schema in bodies} == {'{"type": "null"}'}
    assert client.post("/v1/completions", json={"prompt": "a", "unheard_of": None}).status_code == 200
    assert client.post("/v1/completions", json={"prompt": "a", "unheard_of": 1}).status_code == 400
