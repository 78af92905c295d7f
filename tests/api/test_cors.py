"""CORS: websites that the settings name may call from a browser; others are told nothing."""

from __future__ import annotations

import pytest

from llmapi_kit.config import load_settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ConfigError

from .conftest import KEY, chat, error_of, serving

pytestmark = pytest.mark.kernel

ORIGIN = "https://app.example.com"
PREFLIGHT = {
    "Authorization": "",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,x-api-key,api-key,content-type,ngrok-skip-browser-warning",
}
FOREIGN = [
    "null",
    "https://evil.example",
    "http://app.example.com",
    f"{ORIGIN}:8443",
    f"{ORIGIN}.evil.example",
    f"{ORIGIN}/",
    ORIGIN.upper(),
    "https://sub.app.example.com",
    "*",
    "",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    origins = (ORIGIN, "http://localhost:3000")
    with serving(tmp_path_factory.mktemp("home"), MockEngine(), cors_origins=origins) as made:
        yield made


@pytest.fixture
def client(server, http):
    return http(server)


def cross_origin_headers(response):
    return {name: value for name, value in response.headers.items() if name.startswith("access-control")}


def test_a_page_of_a_named_website_may_ask_with_the_key(client):
    response = client.options("/v1/chat/completions", headers={"Origin": ORIGIN, **PREFLIGHT})
    assert response.status_code == 200
    allowed = cross_origin_headers(response)
    assert allowed["access-control-allow-origin"] == ORIGIN
    headers = {name.strip().lower() for name in allowed["access-control-allow-headers"].split(",")}
    assert {"authorization", "x-api-key", "api-key", "content-type", "ngrok-skip-browser-warning"} <= headers
    assert "access-control-allow-credentials" not in allowed
    answer = client.post("/v1/chat/completions", json=chat("hi"), headers={"Origin": ORIGIN})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-credentials" not in answer.headers
    assert "Origin" in answer.headers["vary"]


def test_errors_can_be_read_by_the_page_too_and_the_key_is_asked_for(client):
    response = client.post("/v1/chat/completions", json=chat("hi"), headers={"Origin": ORIGIN, "Authorization": ""})
    error_of(response, 401)
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "x-request-id" in response.headers["access-control-expose-headers"]


@pytest.mark.parametrize("path", ["/v1/models", "/chat-sse", "/metrics", "/nothing"])
def test_a_preflight_tells_the_same_of_every_path_and_nothing_of_the_server(client, path):
    response = client.options(path, headers={"Origin": ORIGIN, **PREFLIGHT, "Access-Control-Request-Method": "GET"})
    assert (response.status_code, response.text) == (200, "OK")
    assert "mock" not in str(response.headers)


@pytest.mark.parametrize(
    "wrong", [{"Access-Control-Request-Method": "PUT"}, {"Access-Control-Request-Headers": "x-other"}], ids=str
)
def test_what_the_api_does_not_take_is_not_allowed(client, wrong):
    assert client.options("/v1/models", headers={"Origin": ORIGIN, **PREFLIGHT, **wrong}).status_code == 400


@pytest.mark.parametrize("origin", FOREIGN)
def test_other_websites_are_told_nothing(client, origin):
    preflight = client.options("/v1/models", headers={"Origin": origin, **PREFLIGHT})
    assert preflight.status_code == 405
    plain = client.get("/v1/models", headers={"Origin": origin})
    for response in (preflight, plain):
        assert cross_origin_headers(response) == {}


def test_a_foreign_host_is_refused_before_anything_else(client):
    for method in ("OPTIONS", "GET"):
        response = client.request(method, "/v1/models", headers={"Origin": ORIGIN, **PREFLIGHT, "Host": "evil.example"})
        assert error_of(response, 403)["code"] == "host_not_allowed"
        assert cross_origin_headers(response) == {}


def test_without_the_setting_nobody_is_told_anything(serve, http):
    response = http(serve()).get("/v1/models", headers={"Origin": "http://localhost:3000"})
    assert cross_origin_headers(response) == {}


def test_origins_come_from_the_environment_with_commas_between(monkeypatch):
    assert load_settings().cors_origins == ()
    monkeypatch.setenv("LLMAPI_KIT_CORS_ORIGINS", "https://a.example, http://localhost:3000,")
    assert load_settings().cors_origins == ("https://a.example", "http://localhost:3000")


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8080", "http://[::1]:3000", "https://a-b.example", "app://x"])
def test_origins_as_browsers_write_them_are_taken(origin):
    assert load_settings(cors_origins=origin).cors_origins == (origin,)


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "example.com",
        "https://",
        "https://a.example/",
        "https://a.example/path",
        "https://*.example",
        "https://A.example",
        "https://a.example:443",
        "http://a.example:80",
        "http://a.example:0",
        "https://user@a.example",
        "https://a.example https://b.example",
        "https://a.example\nx",
        "HTTPS://a.example",
    ],
    ids=repr,
)
def test_anything_else_is_refused_by_name(origin):
    with pytest.raises(ConfigError, match="cors_origins") as caught:
        load_settings(cors_origins=("https://good.example", origin))
    assert repr(origin) in str(caught.value)


def test_the_key_is_in_no_header_of_any_answer(client):
    for response in (
        client.options("/v1/models", headers={"Origin": ORIGIN, **PREFLIGHT}),
        client.get("/v1/models", headers={"Origin": ORIGIN}),
    ):
        assert KEY not in str(response.headers)
