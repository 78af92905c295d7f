"""Adapters over HTTP: loaded and unloaded by the server's own key on this machine, and asked for by name."""

from __future__ import annotations

import pytest

from llmapi_kit.engines.local.loaded_adapter import AdapterFiles
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ModelLoadError, ModelNotFoundError

from .conftest import chat, error_of, serving

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


def read(source):
    if source == "./missing":
        raise ModelNotFoundError("There is not a LoRA adapter './missing'.")
    if source == "./damaged":
        raise ModelLoadError("adapter_model.safetensors is damaged")
    return AdapterFiles(weights=source)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    from tests.engines.conftest import make_local

    engine = make_local(read_adapter=read)
    with serving(tmp_path_factory.mktemp("home"), engine, MockEngine()) as made:
        yield made


@pytest.fixture
def client(server, http):
    yield (client := http(server))
    for model in server.models:
        if ":" in model:
            client.post(UNLOAD, json={"lora_name": model})


def load(client, name, path="./folder/a", **fields):
    return client.post(LOAD, json={"lora_name": name, "lora_path": path, **fields})


def test_an_adapter_is_loaded_asked_listed_and_unloaded(server, client):
    response = load(client, "a")
    assert (response.status_code, response.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert "'fake:a'" in response.text
    answers = [client.post("/v1/chat/completions", json=chat(model=name)).json() for name in ("fake", "fake:a")]
    assert [each["model"] for each in answers] == ["fake", "fake:a"]
    texts = [each["choices"][0]["message"]["content"] for each in answers]
    assert texts[0] != texts[1]
    cards = {card["id"]: card for card in client.get("/v1/models").json()["data"]}
    assert list(cards) == ["fake", "fake:a", "mock"]
    assert (cards["fake:a"]["root"], cards["fake:a"]["parent"]) == ("a", "fake")
    assert (cards["fake"]["root"], cards["fake"]["parent"]) == ("fake", None)
    assert client.get("/v1/models/fake:a").json() == cards["fake:a"]
    assert "fake:a" in str(server)
    assert "fake:a" in {row["model"] for row in client.get("/v1/usage").json()["data"]}
    assert client.post(UNLOAD, json={"lora_name": "a"}).status_code == 200
    assert (
        "'fake:a' is not served"
        in error_of(client.post("/v1/chat/completions", json=chat(model="fake:a")), 404)["message"]
    )


@pytest.mark.parametrize(
    ("path", "fields", "status", "param"),
    [
        (LOAD, {"lora_name": "a:b", "lora_path": "./x"}, 400, "lora_name"),
        (LOAD, {"lora_name": "", "lora_path": "./x"}, 400, "lora_name"),
        (LOAD, {"lora_name": "taken", "lora_path": "./x"}, 400, "lora_name"),
        (LOAD, {"lora_name": "b", "lora_path": "./missing"}, 404, "lora_path"),
        (LOAD, {"lora_name": "b", "lora_path": "./damaged"}, 400, "lora_path"),
        (LOAD, {"lora_name": "b"}, 400, "lora_path"),
        (LOAD, {"lora_name": 1, "lora_path": "./x"}, 400, "lora_name"),
        (LOAD, {"lora_name": "b", "lora_path": "./x", "model": "mock"}, 400, "model"),
        (LOAD, {"lora_name": "b", "lora_path": "./x", "model": "none"}, 404, "model"),
        (LOAD, {"lora_name": "b", "lora_path": "./x", "is_3d": True}, 400, "is_3d"),
        (UNLOAD, {"lora_name": "b"}, 404, "lora_name"),
        (UNLOAD, {"lora_name": "mock:b"}, 400, "model"),
        (UNLOAD, {"lora_name": "taken", "lora_int_id": 1}, 400, "lora_int_id"),
    ],
    ids=str,
)
def test_what_can_not_be_done_is_refused_by_field_and_changes_nothing(server, client, path, fields, status, param):
    load(client, "taken")
    assert error_of(client.post(path, json=fields), status)["param"] == param
    assert server.models == ["fake", "fake:taken", "mock"]


def test_an_adapter_is_replaced_in_place_once_the_new_one_is_there(server, client):
    load(client, "a")
    error_of(load(client, "a", "./damaged", load_inplace=True), 400)
    assert load(client, "a", "./folder/b", load_inplace=True).status_code == 200
    assert client.get("/v1/models/fake:a").json()["root"] == "b"


def test_a_teammate_changes_no_adapters_and_uses_those_of_the_key(server, client, http):
    for name in "ab":
        load(client, name)
    key = server.keys.create("ada", models=["fake:a"])
    teammate = http(server, headers={"Authorization": f"Bearer {key.api_key}"})
    assert [card["id"] for card in teammate.get("/v1/models").json()["data"]] == ["fake:a"]
    assert teammate.post("/v1/chat/completions", json=chat(model="fake:a")).status_code == 200
    assert teammate.post("/v1/chat/completions", json=chat()).json()["model"] == "fake:a"
    for model in ("fake", "fake:b"):
        error_of(teammate.post("/v1/chat/completions", json=chat(model=model)), 404)
    for path in (LOAD, UNLOAD):
        assert error_of(teammate.post(path, json={"lora_name": "a", "lora_path": "./x"}), 403)["code"] == "owner_only"
    assert server.models == ["fake", "fake:a", "fake:b", "mock"]


def test_no_adapter_is_changed_through_a_tunnel(server, client):
    server._state.public_hosts = ("public.example",)
    server._state.hosts = (*server._state.hosts, "public.example")
    try:
        for path in (LOAD, UNLOAD):
            response = client.post(
                path, json={"lora_name": "a", "lora_path": "./x"}, headers={"Host": "public.example"}
            )
            assert "own machine only" in error_of(response, 403)["message"]
    finally:
        server._state.public_hosts = ()
