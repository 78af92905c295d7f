"""HTTP/1 on the wire, byte for byte: upgrades, old versions, whole addresses, limits, and connections that go on."""

from __future__ import annotations

import contextlib
import json
import socket

import httpx
import pytest

from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import BotTypeError
from llmapi_kit.server.http_protocol import MAX_HEADER_BYTES

pytestmark = pytest.mark.kernel

DEADLINE_S = 60.0
CHAT = json.dumps({"model": "mock", "messages": [{"role": "user", "content": "to be or not"}]}).encode()
STREAM = json.dumps({**json.loads(CHAT), "stream": True}).encode()
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA\r\nUpgrade: h2c\r\n"
WEBSOCKET = (
    b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


class Wire:
    """A connection to a server on which a test writes and reads bytes."""

    def __init__(self, server):
        self.key = server.api_key
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S)
        self._file = self.socket.makefile("rb")

    def send(self, content):
        self.socket.sendall(content)

    def ask(self, body=CHAT, *, path=b"/v1/chat/completions", more=b"", version=b"1.1", host=b"localhost"):
        self.send(self.request(body, path=path, more=more, version=version, host=host))

    def request(self, body=CHAT, *, path=b"/v1/chat/completions", more=b"", version=b"1.1", host=b"localhost"):
        lines = (
            b"%s %s HTTP/%s" % (b"POST" if body else b"GET", path, version),
            b"Host: " + host,
            b"Authorization: Bearer " + self.key.encode(),
            *((b"Content-Length: %d" % len(body),) if body else ()),
        )
        return b"\r\n".join(lines) + b"\r\n" + more + b"\r\n" + body

    def head(self):
        """Status and headers of the next response."""
        status = int(self._file.readline().split()[1])
        headers = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers

    def read(self):
        """Status, headers and body of the next response, which has a length."""
        status, headers = self.head()
        return status, headers, self._file.read(int(headers["content-length"]))

    def rest(self):
        """What comes until the server closes the connection."""
        return self._file.read()

    def close(self):
        self._file.close()
        self.socket.close()


@pytest.fixture
def wire(live_server):
    """Makes connections: `wire(engine)`, all to one server."""
    made, servers = [], []

    def connect(engine=None):
        if not servers:
            servers.append(live_server(engine))
        made.append(Wire(servers[0]))
        return made[-1]

    yield connect
    for each in made:
        each.close()


def content_of(body):
    return json.loads(body)["choices"][0]["message"]["content"]


@pytest.mark.parametrize("offer", [H2C, WEBSOCKET, H2C.lower(), b"Upgrade: h2c\r\nConnection: upgrade\r\n"])
def test_an_upgrade_that_is_not_taken_is_ignored_and_the_request_answered(wire, offer):
    """Java's HttpClient offers HTTP/2 on its first request, body and all, and got a 400."""
    connection = wire()
    for _ in range(3):
        connection.ask(more=offer)
        status, headers, body = connection.read()
        assert (status, content_of(body)) == (200, "to be or not")
        assert "upgrade" not in headers
        connection.ask(b"", path=b"/v1/models", more=offer)
        assert connection.read()[0] == 200


def test_an_upgrade_is_ignored_in_whatever_pieces_the_request_comes(wire):
    connection = wire()
    request = connection.request(more=H2C) + connection.request(b"", path=b"/healthz", more=WEBSOCKET)
    for begin in range(0, len(request), 7):
        connection.send(request[begin : begin + 7])
    assert content_of(connection.read()[2]) == "to be or not"
    assert connection.read()[0] == 200


def test_an_upgrade_is_ignored_where_the_body_comes_in_chunks(wire):
    connection = wire()
    head = connection.request(b"x", more=b"Transfer-Encoding: chunked\r\n" + H2C).removesuffix(b"x")
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(CHAT), CHAT)
    connection.send(head.replace(b"Content-Length: 1\r\n", b"") + chunks + connection.request())
    assert content_of(connection.read()[2]) == "to be or not"
    assert content_of(connection.read()[2]) == "to be or not", "and what follows is the next request"


def test_an_upgraded_request_that_wants_the_connection_closed_gets_it(wire):
    connection = wire()
    connection.send(connection.request(more=H2C.replace(b"Upgrade, ", b"close, Upgrade, ")) + b"and more")
    status, headers = connection.head()
    assert (status, headers["connection"]) == (200, "close")
    assert content_of(connection.rest()) == "to be or not"


@pytest.mark.parametrize(
    "request_line", [b"CONNECT localhost:80 HTTP/1.1", b"PRI * HTTP/2.0", b"hello", b"GET / HTTP/9"]
)
def test_what_is_no_request_is_a_400_in_the_apis_words(wire, request_line):
    connection = wire()
    connection.send(request_line + b"\r\nHost: localhost\r\n\r\n")
    status, headers, body = connection.read()
    assert (status, headers["connection"]) == (400, "close")
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert connection.rest() == b""


def test_a_stream_in_http_1_0_has_no_chunks_and_ends_with_the_connection(wire):
    connection = wire()
    connection.ask(STREAM, version=b"1.0")
    status, headers = connection.head()
    assert (status, headers["connection"]) == (200, "close")
    assert "transfer-encoding" not in headers
    assert "content-length" not in headers
    body = connection.rest()
    assert body.startswith(b"data: {")
    assert body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("path", [b"/v1/models", b"/docs", b"/nothing"])
def test_an_answer_in_http_1_0_has_its_length(wire, path):
    connection = wire()
    connection.ask(b"", path=path, version=b"1.0", more=b"Connection: keep-alive\r\n")
    _, headers, body = connection.read()
    assert "transfer-encoding" not in headers
    assert body
    assert connection.rest() == b""


def test_a_stream_in_http_1_1_has_chunks_and_the_connection_goes_on(wire):
    connection = wire()
    connection.ask(STREAM)
    assert connection.head()[1]["transfer-encoding"] == "chunked"
    connection.ask(more=b"Connection: close\r\n")
    assert connection.rest().count(b"HTTP/1.1 200 OK") == 1


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        (b"http://localhost/v1/models", b"localhost", 200),
        (b"http://127.0.0.1:99/v1/models", b"evil.example", 200),
        (b"http://[::1]:99/v1/models", b"localhost", 200),
        (b"http://evil.example/v1/models", b"localhost", 403),
        (b"http://evil.example:80/v1/models", b"localhost:80", 403),
    ],
)
def test_a_request_for_a_whole_address_is_judged_by_the_host_in_it(wire, target, host, status):
    connection = wire()
    connection.ask(b"", path=target, host=host)
    assert connection.read()[0] == status


@pytest.mark.parametrize("second", [b"localhost", b"evil.example"])
def test_two_host_headers_are_a_400(wire, second):
    connection = wire()
    connection.ask(more=b"Host: " + second + b"\r\n")
    status, _, body = connection.read()
    assert status == 400
    assert "more than one Host" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize("num", [1, 500])
def test_headers_over_the_limit_are_a_431(wire, num):
    connection = wire()
    connection.ask(more=(b"X-A: " + b"x" * (MAX_HEADER_BYTES // num) + b"\r\n") * num)
    status, headers, body = connection.read()
    assert (status, headers["connection"]) == (431, "close")
    assert json.loads(body)["error"]["code"] == "headers_too_large"


def test_a_header_that_never_ends_is_a_431_as_it_comes_in(wire):
    connection = wire()
    connection.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: ")
    with contextlib.suppress(OSError):  # the server has closed it
        for _ in range(100):
            connection.send(b"x" * 65_536)
        pytest.fail("it took all of it")


def test_headers_up_to_the_limit_are_taken_on_each_request_of_a_connection(wire):
    connection = wire()
    for _ in range(3):
        connection.ask(more=b"X-A: " + b"x" * (MAX_HEADER_BYTES - 400) + b"\r\n")
        assert connection.read()[0] == 200


def test_a_long_query_is_no_header(wire):
    connection = wire()
    connection.ask(b"", path=b"/v1/models?a=" + b"x" * 60_000)
    assert connection.read()[0] == 200
    connection.ask(b"", path=b"/v1/models?a=" + b"x" * 70_000)
    status, _, body = connection.read()
    assert status == 400
    assert "The address has more than 65,535 bytes" in json.loads(body)["error"]["message"]


class Failing(MockEngine):
    """Fails as only a bug does, unless it is asked something else."""

    async def generate(self, request):
        if "fail" in str(request.messages):
            raise BotTypeError("the engine has a bug")
        async for event in super().generate(request):
            yield event


@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_after_a_500_the_connection_goes_on(wire, body):
    """It was closed without a word, and the next request of a pooled client failed."""
    connection = wire(Failing())
    for _ in range(3):
        connection.ask(body.replace(b"to be", b"fail!"))
        status, headers, error = connection.read()
        assert (status, headers.get("connection")) == (500, None)
        assert "the engine has a bug" not in error.decode()
        connection.ask()
        assert content_of(connection.read()[2]) == "to be or not"


def test_a_pooled_client_goes_on_after_a_500_and_the_log_has_the_cause(live_server, monkeypatch, wait_until):
    server = live_server()

    def fail(*_):
        raise RuntimeError("a bug")

    headers = {"Authorization": f"Bearer {server.api_key}"}
    with httpx.Client(base_url=server.url, headers=headers, trust_env=False, timeout=DEADLINE_S) as client:
        with monkeypatch.context() as patched:
            patched.setattr(server._state.catalog, "get", fail)
            failed = client.post("/v1/completions", json={"prompt": "a"})
        assert failed.status_code == 500
        assert client.get("/v1/models").status_code == 200

    def lines():
        return [json.loads(line) for line in server.logs() if failed.headers["x-request-id"] in line]

    wait_until(lambda: len(lines()) == 2)  # a request is logged when it is over, which is after its answer
    bug, request = lines()
    assert bug["error"] == "RuntimeError: a bug"
    assert (request["status"], request["error"]) == (500, "generation_failed")
