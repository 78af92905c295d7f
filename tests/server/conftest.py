"""Live servers without a model, and the engines that put them to the test."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time

import httpx
import pytest

from llmapi_kit.config import load_settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.server.server import Server
from llmapi_kit.types import Accepted, Delta, Finished

KEY = "sk-llmapi-for-tests-0123456789"
DEADLINE_S = 60.0


class GatedEngine(MockEngine):
    """Stops before a chosen event until `open` is called; tells when it got there.

    Args:
        before: "accepted", "first token" or "end".
    """

    def __init__(self, before):
        super().__init__()
        self.before = before
        self.arrived = threading.Event()
        self._is_open = False

    def open(self):
        self._is_open = True

    async def generate(self, request):
        self._stats.num_running += 1
        is_over = False
        try:
            await self._pass("accepted")
            yield Accepted(1)
            await self._pass("first token")
            yield Delta("all")
            await self._pass("end")
            yield Delta(" good")
            is_over = True
            yield Finished("stop", 1, 2)
        finally:
            self._stats.num_running -= 1
            self._stats.num_cancelled += not is_over

    async def _pass(self, place):
        if place == self.before:
            self.arrived.set()
            while not self._is_open:  # noqa: ASYNC110 - opened by another thread
                await asyncio.sleep(0.005)


class Client:
    """Plain HTTP to a server, with its key."""

    def __init__(self, server):
        headers = {"Authorization": f"Bearer {server.api_key}"}
        self.http = httpx.Client(base_url=server.url, headers=headers, timeout=DEADLINE_S, trust_env=False)

    def ask(self, content="hello", **fields):
        return self.http.post("/v1/chat/completions", json=self.body(content, **fields))

    def stream(self, content="hello", **fields):
        return self.http.stream("POST", "/v1/chat/completions", json=self.body(content, stream=True, **fields))

    @staticmethod
    def body(content, **fields):
        return {"model": "mock", "messages": [{"role": "user", "content": content}], **fields}


def read_events(response):
    """The data of a stream's events; JSON is parsed, [DONE] stays text."""
    data = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


def in_thread(function, *args):
    """Run something beside the test; `join` it for its result."""
    return _Job(function, args)


class _Job:
    def __init__(self, function, args):
        self._outcome = []
        self._thread = threading.Thread(target=lambda: self._outcome.append(function(*args)), daemon=True)
        self._thread.start()

    @property
    def is_done(self):
        return not self._thread.is_alive()

    def join(self):
        self._thread.join(DEADLINE_S)
        assert self._outcome, "it did not end in time, or raised"
        return self._outcome[0]


def wait(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)


def open_stalled_reader(server, body):
    """A connection that asks and then reads nothing."""
    request = httpx.Request("POST", server.url + "/v1/chat/completions", json=body)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", server.port))
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {server.api_key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(request.content)}\r\n\r\n"
    )
    sock.sendall(head.encode() + request.content)
    return sock


def is_stalled(engine):
    """Whether an answer has begun and goes on no more."""
    before = engine.stats()
    time.sleep(0.1)
    return 0 < before.num_completion_tokens == engine.stats().num_completion_tokens and before.num_running == 1


@pytest.fixture
def wait_until():
    return wait


@pytest.fixture
def stalled_reader():
    return open_stalled_reader


@pytest.fixture
def has_stalled():
    return is_stalled


@pytest.fixture
def gated_engine():
    return GatedEngine


@pytest.fixture
def beside():
    return in_thread


@pytest.fixture
def events_of():
    return read_events


@pytest.fixture
def live_server():
    """Makes servers on free ports and stops them afterwards: `live_server(engine, drain_s=0, …)`."""
    servers = []

    def launch(engine=None, *, api_key=KEY, **settings):
        engines = [engine or MockEngine()]
        server = Server(engines, host="127.0.0.1", port=0, api_key=api_key, settings=load_settings(**settings))
        server.start()
        servers.append(server)
        return server

    yield launch
    for server in servers:
        server.stop(0)


@pytest.fixture
def client_of():
    """Makes plain HTTP clients of servers: `client_of(server).ask("…")`."""
    clients = []

    def make(server):
        clients.append(Client(server))
        return clients[-1]

    yield make
    for client in clients:
        client.http.close()
