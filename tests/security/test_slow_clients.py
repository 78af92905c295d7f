"""Clients that take their time: those that dribble, read nothing, or only come to stay; others notice nothing."""

from __future__ import annotations

import contextlib
import json
import resource
import select
import socket
import threading
import time

import pytest

from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.server import http_protocol
from tests.api.conftest import wait_until

from .conftest import CHAT, DEADLINE_S, KEY, chat, connect, exchange, request_bytes, serving

NUM_DRIBBLERS = 500
NUM_STALLED = 16
SHORT_S = 0.2
HEAD = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
BODY_HEAD = request_bytes("POST", CHAT, more=["Content-Length: 1000"])


@pytest.fixture(scope="module", autouse=True)
def enough_files():
    """Both ends of each connection are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 3 * NUM_DRIBBLERS
    if 0 <= soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard < 0 else min(wanted, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def crowd(server):
    """Opens connections that have sent the same bytes; they are closed at the end."""
    with contextlib.ExitStack() as stack:

        def gather(num, sent=b""):
            made = []
            for _ in range(num):
                raw = socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S)
                made.append(stack.enter_context(raw))
                raw.sendall(sent)
            return made

        yield gather


def dribble(connections):
    """One byte more on each that is still open."""
    for raw in connections:
        with contextlib.suppress(OSError):
            raw.sendall(b"x")


def closed(connections):
    """Those that the server has closed. `poll`, as `select` refuses descriptors from 1,024."""
    poll = select.poll()
    for raw in connections:
        poll.register(raw, select.POLLIN)
    ready = {descriptor for descriptor, _ in poll.poll(0)}
    over = [raw for raw in connections if raw.fileno() in ready]
    for raw in over:
        with contextlib.suppress(ConnectionError):
            raw.recv(4096)
    return over


@pytest.mark.slow
@pytest.mark.parametrize("sent", [HEAD, BODY_HEAD], ids=["head", "body"])
def test_500_dribblers_hold_up_nobody(client, crowd, sent, record_property):
    connections = crowd(NUM_DRIBBLERS, sent)
    times = []
    for _ in range(20):
        dribble(connections)
        begin = time.monotonic()
        assert client.get("/healthz").status_code == 200
        assert client.post(CHAT, json=chat("hi")).status_code == 200
        times.append(time.monotonic() - begin)
    record_property("slowest_s", max(times))
    assert not closed(connections)


NOT_ARRIVED = {
    "nothing": b"",
    "head": HEAD,
    "after another": request_bytes().replace(b"close", b"keep-alive") + HEAD,
}


@pytest.mark.parametrize("sent", NOT_ARRIVED.values(), ids=NOT_ARRIVED)
def test_a_request_that_does_not_arrive_is_given_up_however_it_dribbles(monkeypatch, client, crowd, sent):
    monkeypatch.setattr(http_protocol, "MAX_HEAD_S", SHORT_S)
    connections = crowd(20, sent)

    def are_closed():
        dribble(connections if sent.endswith(HEAD) else ())
        assert client.get("/healthz").status_code == 200
        return len(closed(connections)) == len(connections)

    wait_until(are_closed)


def test_an_empty_line_does_not_keep_a_connection(monkeypatch, crowd):
    """It stopped the timer that runs after an answer, and no other one began."""
    monkeypatch.setattr(http_protocol, "MAX_HEAD_S", SHORT_S)
    (raw,) = crowd(1, request_bytes(path="/healthz").replace(b"close", b"keep-alive"))
    assert raw.recv(4096).startswith(b"HTTP/1.1 200")
    raw.sendall(b"\r\n")
    rest = raw.makefile("rb").read()
    assert b"408 Request Timeout" in rest


@pytest.mark.parametrize(("part", "sent"), [("headers", HEAD), ("body", BODY_HEAD + b"{")])
def test_what_did_not_arrive_is_said(monkeypatch, server, crowd, part, sent):
    monkeypatch.setattr(http_protocol, "MAX_HEAD_S", SHORT_S)
    monkeypatch.setattr(http_protocol, "MAX_BODY_S", SHORT_S)
    (raw,) = crowd(1, sent)
    answer = raw.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert error["code"] == "request_incomplete"
    assert f"The request's {part} did not arrive within 0.2 s" in error["message"]
    assert not server._state.active


def test_the_body_that_a_stranger_goes_on_sending_is_not_read_for_ever(monkeypatch, crowd):
    monkeypatch.setattr(http_protocol, "MAX_BODY_S", SHORT_S)
    (raw,) = crowd(1, request_bytes("POST", CHAT, key=None, more=["Content-Length: 1000000"]).replace(b"close", b"x"))
    assert raw.recv(4096).startswith(b"HTTP/1.1 401")

    def is_closed():
        try:
            raw.sendall(b"x" * 100)
        except ConnectionError:
            return True
        return False

    wait_until(is_closed)


def test_a_body_that_comes_in_pieces_is_taken(server):
    body = json.dumps(chat("to be or not")).encode()
    head = request_bytes("POST", CHAT, more=[f"Content-Length: {len(body)}"])
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) as raw:
        for byte in head + body:
            raw.sendall(bytes([byte]))
        assert b"to be or not" in raw.makefile("rb").read()


def test_requests_that_come_one_after_the_other_without_waiting_are_all_answered(server):
    """Where both ends of a piece of them fell into headers, the whole piece was counted as one: 431."""
    one = request_bytes(path="/healthz").replace(b"Connection: close\r\n", b"X-Filler: " + b"x" * 300 + b"\r\n")
    num = 1000
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) as raw:
        sender = threading.Thread(target=raw.sendall, args=(one * num + request_bytes(path="/healthz"),))
        sender.start()
        answer = raw.makefile("rb").read()
        sender.join()
    assert answer.count(b"HTTP/1.1 200 OK") == num + 1


def test_beyond_the_limit_of_connections_those_that_ask_nothing_make_room(monkeypatch, server, crowd):
    """A kernel may have 1,024 files open, sockets counted; cells could open none any more."""
    monkeypatch.setattr(http_protocol, "MAX_CONNECTIONS", 8)
    engine = MockEngine("word", num_tokens=1000, delay_s=0.01)
    server.replace_engines([engine])
    try:
        with connect(server) as streaming, streaming.stream("POST", CHAT, json=chat(stream=True)) as response:
            lines = response.iter_lines()
            next(lines)
            connections = crowd(20, HEAD)
            wait_until(lambda: len(closed(connections)) >= 13)  # of 21, with the one that streams
            for _ in range(3):
                assert exchange(server, request_bytes(path="/healthz"))[0] == 200
            assert next(line for line in lines if "word" in line), "what is being answered stays"
    finally:
        server.replace_engines([MockEngine()])


def stalled(server, body, path=CHAT):
    """A connection that asks and reads nothing."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", server.port))
    content = json.dumps(body).encode()
    raw.sendall(request_bytes("POST", path, more=[f"Content-Length: {len(content)}"], body=content))
    return raw


@pytest.mark.slow
def test_16_stalled_readers_hold_up_nobody_and_their_slots_come_free(tmp_path):
    with contextlib.ExitStack() as stack:
        engine = MockEngine("x" * 20_000, num_tokens=500)
        server = stack.enter_context(serving(tmp_path, engine, stalled_reader_s=1.0))
        for _ in range(NUM_STALLED):
            stack.enter_context(stalled(server, chat(stream=True)))
        wait_until(lambda: engine.stats().num_running == NUM_STALLED)
        client = stack.enter_context(connect(server))
        with client.stream("POST", CHAT, json=chat(stream=True)) as response:
            lines = [line for line in response.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        assert len(lines) > 500
        wait_until(lambda: engine.stats().num_running == 0)
        assert engine.stats().num_cancelled == NUM_STALLED


def test_an_answer_that_is_never_read_is_let_go(monkeypatch, server):
    """A whole answer was kept, with its connection, for as long as the client liked."""
    monkeypatch.setattr(http_protocol, "STALLED_READER_S", SHORT_S)
    connections = server._thread._server.server_state.connections
    wait_until(lambda: not connections)
    with stalled(server, {"prompt": "a " * 900_000}, "/tokenize"):
        wait_until(lambda: connections)
        wait_until(lambda: not connections)


@pytest.mark.slow
def test_an_answer_that_is_read_slowly_is_read_to_its_end(monkeypatch, server):
    monkeypatch.setattr(http_protocol, "STALLED_READER_S", 0.3)
    with stalled(server, {"prompt": "a " * 400_000}, "/tokenize") as raw:
        answer = b""
        while part := raw.recv(65_536):
            answer += part
            time.sleep(0.005)  # this is the slow reader
    assert answer.endswith(b'"token_strs":null}')
    assert KEY.encode() not in answer
