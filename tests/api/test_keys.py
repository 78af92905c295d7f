"""Keys over HTTP: what each may do, what it sees, and what the owner sees of all."""

from __future__ import annotations

import hashlib
import time
from itertools import count

import httpx
import jsonschema
import pytest

from llmapi_kit.api.routes import KeyedRoute, OwnerRoute
from llmapi_kit.config import load_settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.server.server import Server
from llmapi_kit.store.stored_key import KeyLimits, StoredKey

from .conftest import KEY, all_routes, chat, error_of, path_of, serving, wait_until

pytestmark = pytest.mark.kernel

numbers = count()
CLOSED = {401: {"revoked_at": 1.0}, 403: {"is_paused": True}}


def add_key(server, **fields):
    """Let a server know one more key, as it would from its database; returns the key."""
    secret = f"sk-llmapi-teammate-{next(numbers):030}"
    limits = KeyLimits(**{name: fields.pop(name) for name in KeyLimits.__slots__ if name in fields})
    name = fields.pop("name", secret[-6:])
    digest = hashlib.sha256(secret.encode()).digest()
    ring = server._state.key_check.ring
    ring.replace(
        [*ring.all(), StoredKey(secret[-16:], name, time.time(), digest, secret[:13], limits=limits, **fields)]
    )
    return secret


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("home"), MockEngine(), MockEngine(name="second")) as made:
        yield made


@pytest.fixture
def as_key(server, http):
    """A client with another key."""
    return lambda key: http(server, headers={"Authorization": f"Bearer {key}"})


@pytest.fixture(scope="module")
def schema_of(server):
    """Checks an answer against the document's schema of its route."""
    with httpx.Client(trust_env=False, headers={"Authorization": f"Bearer {KEY}"}) as client:
        document = client.get(f"{server.url}/openapi.json").json()

    def check(path, answer):
        schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(answer, {**schema, "components": document["components"]})

    return check


@pytest.mark.slow
def test_the_owners_key_tells_that_it_is_the_owners(server, http, schema_of):
    answer = http(server).get("/v1/key").json()
    assert answer == {
        "object": "key",
        "name": "owner",
        "is_owner": True,
        "models": None,
        "limits": {"rpm": None, "tpm": None, "concurrency": None},
        "budget": None,
        "expires_at": None,
    }
    schema_of("/v1/key", answer)


def test_a_teammates_key_tells_its_name_limits_and_end(server, as_key, schema_of):
    expires_at = time.time() + 3600
    key = add_key(
        server, name="ada", expires_at=expires_at, models=("second",), rpm=9, tpm=900, concurrency=2, budget=10_000
    )
    answer = as_key(key).get("/v1/key").json()
    assert answer == {
        "object": "key",
        "name": "ada",
        "is_owner": False,
        "models": ["second"],
        "limits": {"rpm": 9, "tpm": 900, "concurrency": 2},
        "budget": {"tokens": 10_000, "used": 0},
        "expires_at": int(expires_at),
    }
    schema_of("/v1/key", answer)


def test_the_owner_sees_models_requests_keys_and_tunnel(serve, http, schema_of):
    slow = serve(MockEngine(reply="on and on", delay_s=0.005, num_tokens=100_000, context_length=200_000))
    add_key(slow, name="ada", is_paused=True)
    add_key(slow, name="gone", revoked_at=time.time())
    owner = http(slow)
    with owner.stream("POST", "/v1/chat/completions", json=chat("one two three", stream=True)) as stream:
        lines = stream.iter_lines()  # which ends the stream when nothing holds it
        next(lines)
        answer = owner.get("/v1/status").json()
    assert list(answer) == ["object", "models", "requests", "keys", "tunnel", "started_at"]
    assert [(model["id"], model["num_running"]) for model in answer["models"]] == [("mock", 1)]
    (request,) = answer["requests"]
    assert (request["key"], request["model"], request["prompt_tokens"]) == ("owner", "mock", 3)
    assert answer["keys"] == [
        {"name": "owner", "is_paused": False, "running": 1, "requests_today": 0, "tokens_today": 0},
        {"name": "ada", "is_paused": True, "running": 0, "requests_today": 0, "tokens_today": 0},
    ]
    assert answer["tunnel"] is None
    assert abs(answer["started_at"] - slow.started_at) < 60
    schema_of("/v1/status", answer)


def test_the_status_counts_each_keys_requests_and_tokens_of_today(server, http, as_key):
    key = add_key(server, name="counted")
    before = http(server).get("/v1/status").json()["keys"]
    assert as_key(key).post("/v1/completions", json={"prompt": "one two three"}).status_code == 200
    after = http(server).get("/v1/status").json()["keys"]
    assert next(each for each in after if each["name"] == "counted") == {
        "name": "counted",
        "is_paused": False,
        "running": 0,
        "requests_today": 1,
        "tokens_today": 6,
    }
    assert after[0] == before[0], "the owner used nothing"


def test_a_server_whose_tunnel_is_down_says_why(server, http, monkeypatch, schema_of):
    tunnel = {"kind": "ngrok", "state": "down", "public_url": None, "reason": "The agent ended."}
    monkeypatch.setattr(server._state, "tunnel", lambda: tunnel)
    answer = http(server).get("/v1/status").json()
    assert answer["tunnel"] == tunnel
    schema_of("/v1/status", answer)


def test_nobody_but_the_owner_sees_the_status(server, as_key):
    error = error_of(as_key(add_key(server, name="curious")).get("/v1/status"), 403)
    assert error["code"] == "owner_only"
    assert "'curious'" in error["message"]


@pytest.mark.parametrize(
    ("fields", "status", "code", "words"),
    [
        ({"is_paused": True}, 403, "key_paused", "is paused"),
        ({"revoked_at": 1.0}, 401, "invalid_api_key", "was revoked"),
        ({"expires_at": 1.0}, 401, "invalid_api_key", "has expired"),
    ],
)
def test_a_key_that_opens_no_more_says_why(server, as_key, fields, status, code, words):
    error = error_of(as_key(add_key(server, **fields)).get("/v1/models"), status)
    assert error["code"] == code
    assert words in error["message"]


def test_a_key_of_some_models_sees_no_others(server, as_key):
    client = as_key(add_key(server, models=("second",)))
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["second"]
    assert client.post("/v1/completions", json={"prompt": "a"}).json()["model"] == "second", "its default"
    for response in (
        client.get("/v1/models/mock"),
        client.post("/v1/chat/completions", json=chat(model="mock")),
        client.post("/v1/embeddings", json={"input": "a", "model": "mock"}),
        client.post("/tokenize", json={"prompt": "a", "model": "mock"}),
        client.post("/chat", json={"prompt": "a", "history": [], "model": "mock"}),
    ):
        error = error_of(response, 404)
        assert error["code"] == "model_not_found"
        assert error["message"] == "The model 'mock' is not served to this key. It may use: second."
    assert list(client.get("/readyz").json()["models"]) == ["second"]


def test_a_key_whose_models_are_gone_has_none(server, as_key):
    client = as_key(add_key(server, models=("yesterday",)))
    assert client.get("/v1/models").json()["data"] == []
    error = error_of(client.post("/v1/completions", json={"prompt": "a"}), 404)
    assert error["message"] == "No model of this key is served here now; it has yesterday."
    started = client.post("/v1/chat/start", json={"bot_type": "chatgpt"}).json()
    asked = client.post("/v1/chat/ask", json={"session": started.get("session", ""), "content": "hello"})
    assert asked.json()["code"] != 0


def test_what_one_key_keeps_no_other_key_finds(server, http, as_key):
    one, two = as_key(add_key(server)), as_key(add_key(server))
    session = one.post("/v1/chat/start", json={"bot_type": "mock"}).json()["session"]
    stored = one.post("/v1/chat/completions", json=chat(store=True)).json()["id"]
    for stranger in (two, http(server)):
        assert stranger.post("/v1/chat/ask", json={"session": session, "content": "hello"}).json()["code"] == -4
        error_of(stranger.get(f"/v1/chat/completions/{stored}"), 404)
        assert stored not in [each["id"] for each in stranger.get("/v1/chat/completions").json()["data"]]
    assert one.post("/v1/chat/ask", json={"session": session, "content": "hello"}).json()["code"] == 0
    assert one.get(f"/v1/chat/completions/{stored}").status_code == 200


def test_a_token_is_worth_as_much_as_the_key_it_was_made_with(server, as_key):
    key = add_key(server, models=("second",))
    token = as_key(key).post("/chat-sse/token").json()["token"]
    stranger = as_key("none")
    query = {"token": token, "prompt": "hello", "stream": "false"}
    assert stranger.get("/chat-sse", params=query).status_code == 200
    error_of(stranger.get("/chat-sse", params={**query, "model": "mock"}), 404)
    until, key_id, seal = token.split(".")
    for forged in (f"{until}.{seal}", f"{until}.nobody.{seal}", f"{int(until) + 1}.{key_id}.{seal}"):
        error_of(stranger.get("/chat-sse", params={**query, "token": forged}), 401)


def test_the_log_and_the_usage_name_the_key(server, as_key):
    client = as_key(add_key(server, name="logged"))
    client.post("/v1/completions", json={"prompt": "one two"})
    wait_until(lambda: any('"key": "logged"' in line for line in server.logs(1000)))
    (day,) = client.get("/v1/usage").json()["data"]
    assert (day["requests"], day["prompt_tokens"]) == (1, 2)


def test_a_closed_key_opens_no_route_whatever_its_kind(server, as_key):
    clients = {code: as_key(add_key(server, **fields)) for code, fields in CLOSED.items()}
    for method, route in all_routes():
        if isinstance(route, KeyedRoute):
            for status, client in clients.items():
                response = client.request(method, path_of(route), content=b"{not json")
                assert response.status_code == status or response.json()["code"] == -2, (method, route.path)
                assert "is paused" in response.text or "was revoked" in response.text, (method, route.path)


def test_the_owners_routes_are_these_and_closed_to_every_teammate(server, as_key):
    owners = {(method, route.path) for method, route in all_routes() if isinstance(route, OwnerRoute)}
    changing = {("POST", "/v1/load_lora_adapter"), ("POST", "/v1/unload_lora_adapter")}
    assert owners == {("GET", "/v1/status"), *changing}
    client = as_key(add_key(server))
    for method, path in owners:
        error_of(client.request(method, path), 403)


def test_where_no_key_is_asked_for_everybody_is_the_owner():
    server = Server([MockEngine()], host="127.0.0.1", port=0, api_key=None, settings=load_settings())
    server.start()
    try:
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            assert client.get("/v1/key").json()["is_owner"]
            assert client.get("/v1/status").json()["keys"] == []
    finally:
        server.stop()
