"""Who gets in: keys, hosts, and that no route was forgotten."""

from __future__ import annotations

import http.client

import pytest
from fastapi import FastAPI

from llmapi_kit.api.app import check_routes
from llmapi_kit.api.auth import KeyCheck
from llmapi_kit.api.routes import BodyKeyedRoute, KeyedRoute, LocalPageRoute, PublicRoute, StrangersRoute, TokenRoute
from llmapi_kit.engines.mock import MockEngine

from .conftest import KEY, all_routes, chat, error_of, path_of, serving


class Untouchable(MockEngine):
    def generate(self, request):
        raise AssertionError("the engine was asked without a key")


@pytest.fixture(scope="module")
def untouchable(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("home"), Untouchable()) as made:
        yield made


ROUTES = all_routes()
BODY_KEYED = [(method, route) for method, route in ROUTES if isinstance(route, BodyKeyedRoute)]
KEYED = [each for each in ROUTES if isinstance(each[1], KeyedRoute) and each not in BODY_KEYED]
TOKENED = [(method, route) for method, route in ROUTES if isinstance(route, TokenRoute)]


HEALTH = ("/healthz", "/health", "/v1/health", "/ping")


def test_only_health_invitations_and_pages_that_are_the_same_on_every_server_need_no_key():
    keyless = {route.path: type(route) for _, route in ROUTES if not isinstance(route, KeyedRoute | TokenRoute)}
    pages = {"/docs": LocalPageRoute, "/docs/{asset}": LocalPageRoute}
    pages |= {"/": PublicRoute, "/web/{version}/{name:path}": PublicRoute, "/invitations": StrangersRoute}
    assert keyless == dict.fromkeys(HEALTH, PublicRoute) | pages


def test_a_route_that_nobody_classified_stops_the_server_from_starting():
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/forgotten")
    def forgotten():
        return "open"

    with pytest.raises(RuntimeError, match="forgotten"):
        check_routes(app)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "route"), KEYED, ids=str)
@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong",
        f"Basic {KEY}",
        KEY,
        f"Bearer {KEY}x",
        "Bearer \xff\xfe",
        f"Bearer {KEY[:-1]}",
    ],
)
def test_every_keyed_route_asks_for_the_key_before_reading_the_body(untouchable, http, method, route, authorization):
    server = untouchable
    client = http(server)
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    client.headers.pop("authorization")
    response = client.request(method, path_of(route), headers=headers, content=b"{not json")
    error = error_of(response, 401)
    assert error["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"
    assert KEY not in response.text


@pytest.mark.slow
@pytest.mark.parametrize(("method", "route"), BODY_KEYED, ids=str)
@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer wrong", f"Basic {KEY}", KEY, "Bearer \xff\xfe"])
@pytest.mark.parametrize("body", [b"{not json", b"", b'["apikey"]', b'{"apikey": "wrong"}', b'{"apikey": {}}'])
def test_a_route_that_takes_the_key_in_its_body_too_asks_for_it(untouchable, http, method, route, authorization, body):
    client = http(untouchable)
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    client.headers.pop("authorization")
    response = client.request(method, path_of(route), headers=headers, content=body)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"
    assert KEY not in response.text


def test_only_sessions_take_the_key_in_the_body():
    assert {route.path for _, route in BODY_KEYED} == {f"/v1/chat/{call}" for call in ("start", "ask", "end")}


@pytest.mark.parametrize(("method", "route"), TOKENED, ids=str)
@pytest.mark.parametrize(
    "token",
    [
        *(None, "", "wrong", KEY, "1.2", "99999999999."),
        pytest.param(KeyCheck(f"{KEY}x").new_token(60), id="of another key"),
    ],
)
def test_every_route_with_a_token_asks_for_it_also_from_those_who_have_the_key(untouchable, http, method, route, token):
    query = {} if token is None else {"token": token}
    response = http(untouchable).request(method, path_of(route), params={"prompt": "hi", **query})
    assert error_of(response, 401)["code"] == "invalid_api_key"
    assert KEY not in response.text


def test_the_only_route_with_a_token_is_the_eventsources():
    assert {route.path for _, route in TOKENED} == {"/chat-sse"}


ODD_PATHS = ["//v1/models", "/v1//models", "/v1/%2e/models", "/healthz/../v1/models", "/V1/models", "/v1/models/"]


@pytest.mark.parametrize("path", ODD_PATHS)
def test_odd_paths_open_nothing(untouchable, path):
    server = untouchable
    connection = http_connection(server)
    connection.request("GET", path)
    response = connection.getresponse()
    assert response.status in (401, 404)
    assert b"context_length" not in response.read()
    connection.close()


def http_connection(server):
    """A client that sends paths and headers as they are."""
    return http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "", "[::1].x"])
def test_foreign_host_names_are_refused(untouchable, host):
    server = untouchable
    connection = http_connection(server)
    connection.putrequest("GET", "/v1/models", skip_host=True)
    connection.putheader("Host", host)
    connection.putheader("Authorization", f"Bearer {KEY}")
    connection.endheaders()
    assert connection.getresponse().status in (400, 403)
    connection.close()


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:99", "LOCALHOST"])
def test_names_of_this_machine_are_answered(serve, http, host):
    assert http(serve()).get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("path", HEALTH)
def test_health_tells_which_server_it_is_and_nothing_else(untouchable, http, path):
    server = untouchable
    response = http(server, headers={"Authorization": ""}).get(path)
    assert response.json() == {"status": "ok", "instance": server._state.instance}


def test_openapi_document_lists_what_there_is(serve, http):
    document = http(serve()).get("/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/healthz", "/readyz"} <= set(document["paths"])
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["anyOf"][0]["$ref"].endswith("/ChatBody")


def test_there_is_no_cors_header(serve, http):
    response = http(serve()).get("/healthz", headers={"Origin": "https://evil.example"})
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_unknown_paths_answer_404_in_the_error_shape(serve, http):
    assert error_of(http(serve()).get("/v1/nothing"), 404)["code"] == "not_found"


def test_a_method_that_a_path_does_not_take_is_a_405_that_names_those_it_does(untouchable, http):
    client = http(untouchable)
    for path, allowed in {
        "/v1/chat/completions": "GET, HEAD, POST",
        "/v1/chat/completions/x/": "DELETE, GET, HEAD, POST",
        "/v1/completions": "POST",
        "/health": "GET, HEAD",
    }.items():
        response = client.patch(path)
        error_of(response, 405)
        assert response.headers["allow"] == allowed


def test_what_tells_of_the_server_is_closed_to_the_tunnel(serve, http):
    server = serve()
    server._allow_hosts("https://abc.ngrok.app")
    client = http(server)
    public = {"Host": "abc.ngrok.app"}
    for path in ("/metrics", "/openapi.json"):
        assert client.get(path).status_code == 200
        assert error_of(client.get(path, headers=public), 403)["type"] == "permission_error"
        error_of(client.get(path, headers={**public, "Authorization": "Bearer wrong"}), 401)
    assert client.get("/v1/models", headers=public).status_code == 200
    server._allow_hosts()
    assert client.get("/v1/models", headers=public).status_code == 403


def test_keyed_route_is_a_public_route_with_a_key():
    assert issubclass(KeyedRoute, PublicRoute)


@pytest.mark.parametrize("key", ["' OR 1=1 --", "a\x00b", "x" * 60_000])
def test_hostile_keys_are_refused_not_served(untouchable, key):
    import socket

    server = untouchable
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        request = (
            f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
        )
        raw.sendall(request.encode())
        status = int(raw.makefile("rb").readline().split()[1])
    assert status in (400, 401, 431)


def test_chat_works_with_the_key(serve, http):
    assert http(serve()).post("/v1/chat/completions", json=chat("hi")).status_code == 200
