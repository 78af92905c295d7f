"""Who gets in: keys, hosts, and that no route was forgotten."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from llmapi_kit.api.app import check_routes
from llmapi_kit.api.auth import KeyCheck
from llmapi_kit.api.routes import BodyKeyedRoute, KeyedRoute, LocalPageRoute, PublicRoute, StrangersRoute, TokenRoute
from llmapi_kit.engines.mock import MockEngine

from .conftest import KEY, all_routes, chat, error_of, path_of, serving

pytestmark = pytest.mark.slow


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
    pages |= {"/": PublicRoute, "/web/{version}/{name:path}": PublicRoute}
    assert keyless == dict.fromkeys(HEALTH, PublicRoute) | pages | {"/invitations": StrangersRoute}


def test_a_route_that_nobody_classified_stops_the_server_from_starting():
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/forgotten")
    def forgotten():
        return "open"

    with pytest.raises(RuntimeError, match="forgotten"):
        check_routes(app)


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
    assert response.status_code == 401
    error = response.json()["error"] if route.has_own_errors else error_of(response, 401)
    assert error["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"
    assert KEY not in response.text


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


def test_chat_works_with_the_key(serve, http):
    assert http(serve()).post("/v1/chat/completions", json=chat("hi")).status_code == 200
