"""What holds on every route there is or will be: they are looked up in the application, not listed here."""

from __future__ import annotations

import gzip
import json

import hypothesis
import pytest
from hypothesis import strategies as st

from llmapi_kit.api.routes import BodyKeyedRoute, KeyedRoute, TokenRoute
from llmapi_kit.engines.mock import MockEngine

from .byte_bodies import ODD_BYTES, mutated
from .conftest import KEY, all_routes, chat, path_of, serving

pytestmark = pytest.mark.slow

ROUTES = all_routes()
KEYED = [each for each in ROUTES if isinstance(each[1], KeyedRoute)]
GETS = [each for each in ROUTES if each[0] == "GET"]
WITH_BODY = [each for each in ROUTES if each[1].body_field is not None]
TEXT = "three little words"
# A body that is answered, by the beginning of the path; the longest that fits
BODIES = {
    "/": {},
    "/v1/chat/completions": chat(TEXT),
    "/v1/chat/completions/": {"metadata": {"a": TEXT}},
    "/v1/chat/start": {"bot_type": "mock", "settings": {"system": TEXT}},
    "/v1/chat/ask": {"session": "0" * 32, "content": TEXT},
    "/v1/chat/end": {"session": TEXT},
    "/v1/completions": {"prompt": TEXT, "stream": True},
    "/v1/embeddings": {"input": [TEXT]},
    "/v1/rerank": {"query": TEXT, "documents": [TEXT, "other"]},
    "/v2/rerank": {"query": TEXT, "documents": [TEXT, "other"]},
    "/rerank": {"query": TEXT, "documents": [TEXT, "other"]},
    "/v1/score": {"text_1": TEXT, "text_2": [TEXT, "other"]},
    "/score": {"text_1": TEXT, "text_2": [TEXT, "other"]},
    "/v1/responses": {"input": TEXT},
    "/v1/messages": {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 9},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": TEXT}]},
    "/v1/images/generations": {"prompt": TEXT, "size": "64x64"},
    "/v1/load_lora_adapter": {"lora_name": "a", "lora_path": TEXT},
    "/v1/unload_lora_adapter": {"lora_name": TEXT},
    "/tokenize": {"prompt": TEXT},
    "/detokenize": {"tokens": [0, 1, 2]},
    "/chat": {"prompt": TEXT, "history": []},
    "/chat-stream": {"prompt": TEXT},
    "/embedding": {"prompt": [TEXT]},
    "/invitations": {"code": TEXT},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("home"), MockEngine(), max_sessions=100_000) as made:
        yield made


@pytest.fixture
def client(server, http):
    return http(server)


@pytest.fixture
def stranger(server, http):
    """A client without the key."""
    client = http(server)
    del client.headers["authorization"]
    return client


def body_of(route):
    prefix = max((path for path in BODIES if path_of(route).startswith(path)), key=len)
    return json.dumps(BODIES[prefix]).encode()


def query_of(server, route):
    """What opens a route with a token."""
    is_tokened = isinstance(route, TokenRoute)
    return {"token": server._state.key_check.new_token(60), "prompt": TEXT, "stream": "false"} if is_tokened else {}


def has_failed(response):
    """Whether the answer is an error; sessions have codes of their own in place of statuses."""
    return response.status_code >= 400 or (b'"code":' in response.content and response.json().get("code") != 0)


@pytest.mark.parametrize(("method", "route"), ROUTES, ids=str)
def test_a_slash_at_the_end_is_the_same_route_without_a_redirect(server, client, stranger, method, route):
    query = query_of(server, route)
    for caller in (client, stranger):
        plain, slashed = (
            caller.request(method, path_of(route) + end, params=query, content=body_of(route)) for end in ("", "/")
        )
        assert slashed.status_code == plain.status_code
        assert not slashed.is_redirect
        assert slashed.headers["content-type"] == plain.headers["content-type"]
        if "json" in plain.headers["content-type"]:
            assert slashed.json().keys() == plain.json().keys()
            assert slashed.json().get("error") == plain.json().get("error")


@pytest.mark.parametrize(
    "path", ["//v1/models", "/v1//models", "/v1/models//", "/v1/completions//", "//", "/healthz//"]
)
def test_more_slashes_are_another_path(client, path):
    assert client.build_request("GET", client.base_url.join(f"http://x{path}")).url.path == path
    response = client.get(str(client.base_url).rstrip("/") + path)
    assert response.status_code == 404


def test_an_encoded_slash_belongs_to_a_name(client):
    assert "'mock/'" in client.get("/v1/models/mock%2F").json()["error"]["message"]


@pytest.mark.parametrize(("method", "route"), GETS, ids=str)
def test_head_answers_as_get_without_the_body(server, client, stranger, method, route):
    query = query_of(server, route)
    for caller in (client, stranger):
        whole, head = (caller.request(each, path_of(route), params=query) for each in (method, "HEAD"))
        assert head.status_code == whole.status_code
        assert head.content == b""
        assert head.headers["content-type"] == whole.headers["content-type"]
        assert caller.get("/healthz").status_code == 200, "the connection goes on"


def test_head_of_a_stream_makes_no_answer(server, client):
    token = server._state.key_check.new_token(60)
    response = client.head("/chat-sse", params={"token": token, "prompt": "word " * 1000})
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize("path", ["/v1/completions", "/nothing"])
def test_head_of_what_has_no_get_is_an_error(client, path):
    assert client.head(path).status_code == (404 if path == "/nothing" else 405)


@pytest.mark.parametrize(("method", "route"), KEYED, ids=str)
@pytest.mark.parametrize("name", ["X-API-Key", "api-key"])
def test_the_key_may_come_in_the_header_of_other_apis(client, stranger, method, route, name):
    expected = client.request(method, path_of(route), content=body_of(route))
    answer = stranger.request(method, path_of(route), content=body_of(route), headers={name: KEY})
    assert answer.status_code == expected.status_code != 401
    for wrong in ("", f"{KEY}x", f"Bearer {KEY}"):
        assert stranger.request(method, path_of(route), headers={name: wrong}).status_code == 401


@pytest.mark.parametrize(
    ("headers", "is_open"),
    [
        ({"Authorization": f"Bearer {KEY}", "x-api-key": "wrong"}, True),
        ({"Authorization": "Bearer wrong", "x-api-key": KEY}, False),
        ({"Authorization": "Bearer", "x-api-key": KEY}, True),
        ({"Authorization": "Basic dTpw", "x-api-key": KEY}, True),
        ({"x-api-key": KEY, "api-key": "wrong"}, True),
        ({"x-api-key": "wrong", "api-key": KEY}, False),
        ({"Authorization": f"bearer  \t{KEY}"}, True),
        ({"Authorization": f"Bearer {KEY}\xa0"}, False),
        ({"Authorization": f"Bearer \x85{KEY}"}, False),
        ({"x-api-key": f"\xa0{KEY}"}, False),
    ],
)
def test_of_several_keys_the_bearers_counts_and_none_but_the_very_key_opens(stranger, headers, is_open):
    sent = {name: value.encode("latin-1") for name, value in headers.items()}
    assert stranger.get("/v1/models", headers=sent).status_code == (200 if is_open else 401)


@pytest.mark.parametrize(("method", "route"), WITH_BODY, ids=str)
def test_a_compressed_body_is_refused_by_the_name_of_its_header(client, method, route):
    body = gzip.compress(body_of(route))
    for encoding in ("gzip", "Deflate", "br, gzip"):
        response = client.request(method, path_of(route), content=body, headers={"Content-Encoding": encoding})
        assert has_failed(response)
        assert f"Content-Encoding {encoding.lower()!r}" in response.text
        if not isinstance(route, BodyKeyedRoute):
            assert (response.status_code, response.json()["error"]["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(("method", "route"), WITH_BODY, ids=str)
def test_a_body_that_says_it_is_not_compressed_is_taken(client, method, route):
    plain = client.request(method, path_of(route), content=body_of(route))
    named = client.request(method, path_of(route), content=body_of(route), headers={"Content-Encoding": "identity"})
    assert named.status_code == plain.status_code


@pytest.mark.parametrize(("method", "route"), WITH_BODY, ids=str)
def test_an_empty_body_is_said_to_be_empty(client, method, route):
    response = client.request(method, path_of(route))
    assert has_failed(response)
    assert "The body is empty; send a JSON object" in response.text


@pytest.mark.parametrize(("method", "route"), WITH_BODY, ids=str)
def test_a_text_that_is_none_is_the_clients_mistake(client, method, route):
    """Half a surrogate, which JSON's parser lets pass, was a 500."""
    for odd in ODD_BYTES:
        body = body_of(route).replace(TEXT.encode(), odd).replace(b"[0, 1, 2]", b'["' + odd + b'"]')
        response = client.request(method, path_of(route), content=body)
        assert response.status_code < 500
        assert has_failed(response), response.text


@pytest.mark.parametrize(("method", "route"), WITH_BODY, ids=str)
def test_no_bytes_make_the_server_fail(client, method, route):
    @hypothesis.settings(
        max_examples=40,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(content=st.one_of(mutated(body_of(route)), st.binary(max_size=40)))
    def send(content):
        response = client.request(method, path_of(route), content=content)
        assert response.status_code < 500, content
        assert '"code": -1,' not in response.text, content  # an internal error, in the session API's words

    send()
