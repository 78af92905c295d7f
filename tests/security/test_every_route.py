"""What no route may do, whichever there are: each is attacked by strangers, under odd names and on odd paths."""

from __future__ import annotations

import http.client
import json

import pytest
from fastapi import FastAPI
from starlette.routing import Mount, Route, WebSocketRoute

from llmapi_kit.api import routes as api_routes
from llmapi_kit.api.app import check_routes
from llmapi_kit.api.routes import BodyKeyedRoute, KeyedRoute, LocalPageRoute, LocalRoute, PublicRoute
from llmapi_kit.engines.mock import MockEngine

from .conftest import CHAT, DEADLINE_S, KEY, chat, code_of, connect, exchange, request_bytes, serving
from .routes import CLOSED, ROUTES, WITH_BODY, name_of, path_of

pytestmark = pytest.mark.slow

# Who may come without the key, by decision: what tells nothing of the server, and what a browser opens first.
WITHOUT_A_KEY = {
    *("/healthz", "/health", "/v1/health", "/ping"),
    *("/docs", "/docs/{asset}"),
    *("/", "/web/{version}/{name:path}"),  # the chat page, which asks for the key
    "/invitations",  # takes an invitation in place of a key
}
CLOSED_WITH_BODY = [route for route in WITH_BODY if isinstance(route, KeyedRoute)]
LOCAL = [each for each in ROUTES if isinstance(each[1], LocalRoute | LocalPageRoute)]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
EVIL_HOSTS = [
    "evil.example",
    "127.0.0.1.evil.example",
    "127.0.0.1.nip.io",  # a name whose owner chooses what it resolves to
    "localhost.evil.example",
    "evil.example:80",
    "evil.example.",
    "localhost.",
    "a.localhost",
    "localhost:80:80",
    "localhost:evil",
    "localhost@evil.example",
    "evil.example@localhost",
    "localhost, evil.example",
    "evil.example, localhost",
    "localhost/evil",
    "localhost?x",
    "localhost#x",
    "localhost\\.evil.example",
    "localhost%00.evil.example",
    "localhost\xa0",
    "0",
    "0.0.0.0",
    "127.1",
    "2130706433",
    "0x7f000001",
    "[::ffff:127.0.0.1]",
    "[::1]evil",
    "[::1",
    "",
]
EVIL_ORIGINS = [
    "null",
    "https://evil.example",
    "http://localhost.evil.example",
    "file://",
    "*",
    "",
    "chrome-extension://x",
]
ODD_PATHS = {
    "slash before": "/{path}",
    "slash after": "{path}//",
    "slashes doubled": "{doubled}",
    "dot segment": "/.{path}",
    "encoded dot": "/%2e{path}",
    "up and back": "/healthz/..{path}",
    "encoded up and back": "/healthz/%2e%2e{path}",
    "slash encoded": "/healthz%2f..{path}",
    "parameter": "{path};a=b",
    "parameter first": "/;x{path}",
    "NUL": "{path}%00",
    "NUL and health": "{path}%00/healthz",
    "line end": "{path}%0d%0aX-Api-Key:%20x",
    "fragment": "{path}%23/healthz",
    "question mark": "{path}%3f/healthz",
    "health as query": "{path}?/healthz",
    "no UTF-8": "{path}%ff",
    "upper case": "{upper}",
    "doubly encoded": "{encoded}",
    "backslash": "/healthz/..\\{tail}",
    "whole address": "http://localhost/healthz/..{path}",
}
HOSTILE_KEYS = {
    "SQL": "' OR '1'='1' --",
    "stacked SQL": "x'; DROP TABLE keys; --",
    "wildcard": "%",
    "template": "{{7*7}}${7*7}",
    "non-ASCII": "sk-\xe4\xf6\xfc\xff",
    "high bytes": "\x80" * 64,
    "shell": "$(id)`id`",
    "long": "x" * 15_000,
    "prefix": KEY[:-1],
    "suffix": KEY + "x",
    "other case": KEY.upper(),
    "inner space": KEY[:5] + " " + KEY[5:],
    "quoted": f'"{KEY}"',
    "comma": f"{KEY}, {KEY}",
}
UNTRUE_HEADERS = {
    "X-Original-URL": "/healthz",
    "X-Rewrite-URL": "/healthz",
    "X-HTTP-Method-Override": "GET",
    "X-Forwarded-For": "127.0.0.1",
    "X-Forwarded-Host": "localhost",
    "X-Forwarded-Prefix": "/healthz",
    "X-Real-IP": "127.0.0.1",
    "Forwarded": "for=127.0.0.1;host=localhost",
    "Cookie": f"api_key={KEY}; Authorization={KEY}",
    "Proxy-Authorization": f"Bearer {KEY}",
    "X-Auth-Token": KEY,
    "Sec-WebSocket-Protocol": f"openai-insecure-api-key.{KEY}",
    "Referer": f"http://localhost/?api_key={KEY}",
}


class Untouchable(MockEngine):
    """Whoever gets to the model without a key fails the test."""

    def generate(self, request):
        raise AssertionError("the engine was asked without a key")

    embed = tokenize = tokenize_chat = detokenize = generate


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("home"), Untouchable()) as made:
        yield made


@pytest.fixture
def wire(server):
    """Asks on one connection, with paths and headers as they are."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE_S)

    def ask(method, path, *, host="localhost", body=b"", **headers):
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in {"Host": host, **headers}.items():
            connection.putheader(name, value.encode("latin-1"))
        if body:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body or None)
        response = connection.getresponse()
        response.text = response.read().decode("utf-8", "replace")
        return response

    connection._validate_path = connection._validate_host = lambda _: None  # the odd ones are the point
    yield ask
    connection.close()


def test_every_route_is_classified_and_a_new_one_without_a_key_needs_a_decision():
    """Add it to the table above only if strangers may have what it answers."""
    assert all(isinstance(route, PublicRoute) for _, route in ROUTES)
    assert {route.path for each in ROUTES if each not in CLOSED for route in each[1:]} <= WITHOUT_A_KEY
    assert {route.path for _, route in LOCAL} >= {"/docs", "/docs/{asset}", "/openapi.json", "/metrics"}


@pytest.mark.parametrize(
    "route",
    [
        Route("/forgotten", lambda request: None),
        Mount("/forgotten", routes=[]),
        WebSocketRoute("/forgotten", lambda socket: None),
    ],
    ids=lambda route: type(route).__name__,
)
def test_what_has_no_class_of_ours_stops_the_server_from_starting(route):
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.router.routes.append(route)
    with pytest.raises(RuntimeError, match="decide who may call it"):
        check_routes(app)


def test_no_route_manages_the_server():
    """Keys, models and the end of the server are the kernel's business: there is nothing for a stolen key to call."""
    words = ("admin", "load", "unload", "shutdown", "stop", "restart", "rotate", "settings", "config", "keys", "lora")
    parts = {part for _, route in ROUTES for part in route.path.split("/")}
    assert not parts & set(words)


@pytest.mark.parametrize(("method", "route"), CLOSED, ids=name_of)
@pytest.mark.parametrize("odd", ODD_PATHS)
def test_no_spelling_of_a_path_leads_past_the_key(wire, method, route, odd):
    path = path_of(route)
    encoded = "/" + "".join(f"%25{ord(char):02x}" for char in path[1:])
    others = {"upper": path.upper(), "encoded": encoded, "tail": path[1:], "doubled": path.replace("/", "//")}
    spelled = ODD_PATHS[odd].format(path=path, **others)
    response = wire(method, spelled, body=b"{}")
    assert response.status in (400, 401, 403, 404, 405), response.text


@pytest.mark.parametrize(("method", "route"), CLOSED, ids=name_of)
@pytest.mark.parametrize("key", HOSTILE_KEYS)
def test_no_odd_key_opens_or_breaks_a_route(wire, method, route, key):
    for headers in ({"Authorization": f"Bearer {HOSTILE_KEYS[key]}"}, {"X-Api-Key": HOSTILE_KEYS[key]}):
        response = wire(method, path_of(route), **headers)
        assert response.status == 401
        error = json.loads(response.text)["error"]
        assert error.get("code", error["type"]) in (
            "invalid_api_key",
            "authentication_error",
        )  # the latter is Anthropic's
        assert KEY not in response.text


@pytest.mark.parametrize(("key", "status"), [("a\x00b", 400), ("a\x01b", 400), ("x" * 1_000_000, 431)], ids=str)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/chat-sse"])
def test_a_key_that_can_not_be_sent_is_no_request(server, path, key, status):
    assert exchange(server, request_bytes(path=path, key=key))[0] == status


@pytest.mark.parametrize(("method", "route"), CLOSED, ids=name_of)
def test_no_header_but_the_keys_own_opens_a_route(wire, method, route):
    for name, value in UNTRUE_HEADERS.items():
        assert wire(method, path_of(route), **{name: value}).status == 401
    for name in ("api_key", "key", "access_token", "apikey", "authorization"):
        assert wire(method, f"{path_of(route)}?{name}={KEY}").status == 401


@pytest.mark.parametrize("name", ["Host", "Authorization", "X-Api-Key", "Api-Key"])
def test_of_two_headers_that_decide_none_is_believed(server, name):
    value = "localhost" if name == "Host" else f"Bearer {KEY}"
    lines = [f"{name}: {value}"] * (1 if name in ("Host", "Authorization") else 2)
    status, answer = exchange(server, request_bytes(more=lines))
    assert status == 400
    assert f"more than one {name} header".encode() in answer


@pytest.mark.parametrize("path", sorted({path_of(route) for _, route in CLOSED}))
def test_no_method_opens_a_closed_path(wire, path):
    for method in METHODS:
        assert wire(method, path, Authorization="Bearer wrong").status in (401, 405)


@pytest.mark.parametrize(("method", "route"), ROUTES, ids=name_of)
def test_no_route_is_answered_under_a_foreign_name(wire, method, route):
    """A website whose name resolves to this machine (DNS rebinding) reads answers as its own."""
    for host in EVIL_HOSTS:
        response = wire(method, path_of(route), host=host, Authorization=f"Bearer {KEY}")
        assert response.status in (400, 403), host
        assert not cross_origin_headers(response)


@pytest.mark.parametrize("host", ["localhost", "LocalHost:8000", "127.0.0.1:1", "[::1]", "[::1]:65535"])
def test_names_of_this_machine_are_answered(wire, host):
    assert wire("GET", "/readyz", host=host, Authorization=f"Bearer {KEY}").status == 200


@pytest.mark.parametrize(("method", "route"), ROUTES, ids=name_of)
def test_no_route_tells_a_foreign_website_anything(wire, method, route):
    for origin in EVIL_ORIGINS:
        preflight = {"Origin": origin, "Access-Control-Request-Method": method}
        for response in (
            wire("OPTIONS", path_of(route), **preflight),
            wire(method, path_of(route), Origin=origin),
            wire("GET", "/readyz", Origin=origin, Authorization=f"Bearer {KEY}"),
        ):
            assert not cross_origin_headers(response), origin
            assert response.getheader("set-cookie") is None


def cross_origin_headers(response):
    return [name for name, _ in response.getheaders() if name.lower().startswith("access-control")]


@pytest.mark.parametrize(("method", "route"), ROUTES, ids=name_of)
def test_nobody_is_sent_elsewhere(wire, method, route):
    """A redirection would take the key of a careless client along, to http:// behind a tunnel."""
    for path in (path_of(route), path_of(route) + "/", path_of(route) + "//evil.example", "//evil.example/%2e%2e"):
        response = wire(method, path, Authorization="Bearer wrong")
        assert response.status not in range(300, 400)
        assert response.getheader("location") is None


@pytest.mark.parametrize(("method", "route"), LOCAL, ids=name_of)
def test_what_is_for_this_machine_is_not_there_for_a_tunnel(server, wire, method, route):
    server._allow_hosts("https://abc.ngrok.app")
    try:
        for host in ("abc.ngrok.app", "ABC.ngrok.app:443"):
            response = wire(method, path_of(route), host=host, Authorization=f"Bearer {KEY}")
            assert response.status == 403
    finally:
        server._allow_hosts()


@pytest.mark.parametrize(("method", "route"), CLOSED, ids=name_of)
def test_an_offered_upgrade_opens_nothing(server, method, route):
    more = ["Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    request = request_bytes(method, path_of(route), key=None, more=more)
    status, _ = exchange(server, request.replace(b"Connection: close", b"Connection: close, Upgrade"))
    assert status == 401


@pytest.mark.parametrize("route", CLOSED_WITH_BODY, ids=name_of)
def test_nothing_that_a_stranger_sends_is_parsed(server, monkeypatch, route):
    """Parsing costs more than sending."""

    def parse(body, max_depth):
        raise AssertionError("a stranger's body was parsed")

    monkeypatch.setattr(api_routes, "parse_json", parse)
    bodies = [json.dumps(chat()).encode(), b'{"x": [' + b"[]," * 300_000 + b"[]]}"]
    with connect(server, is_keyed=False) as stranger:
        for body in bodies:
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                response = stranger.post(path_of(route), content=body, headers=headers)
                assert response.status_code == 401, response.text


def test_only_sessions_read_a_strangers_body_at_all(server, monkeypatch):
    """Their older clients send the key in it."""
    read = []

    async def body(self):
        read.append(self.url.path)
        return b""

    monkeypatch.setattr(api_routes.StrictRequest, "body", body)
    with connect(server, is_keyed=False) as stranger:
        for route in CLOSED_WITH_BODY:
            stranger.post(path_of(route), json=chat())
    assert set(read) == {path_of(route) for route in CLOSED_WITH_BODY if isinstance(route, BodyKeyedRoute)}


def test_a_flood_without_the_key_is_a_few_lines_of_log(server):
    before = set(server.logs(1000))
    with connect(server, is_keyed=False) as stranger:
        for index in range(300):
            code = code_of(stranger.post(f"{CHAT}/{index}" if index % 2 else CHAT, content=b"junk"))
            assert code == "invalid_api_key"
    new = [line for line in server.logs(1000) if line not in before]
    assert len(new) < 150, "five a second and their number, however long it took"
