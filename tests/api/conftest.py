"""A live server on a free port, over whichever engines a test needs."""

from __future__ import annotations

import contextlib
import http.client as http_client
import json
import re
import threading
import time

import httpx
import pytest

from llmapi_kit.api.app import create_app
from llmapi_kit.api.auth import KeyCheck
from llmapi_kit.api.state import ApiState
from llmapi_kit.config import load_settings
from llmapi_kit.engines.catalog import Catalog
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.server.server import Server
from llmapi_kit.store.store import open_store

KEY = "sk-llmapi-test-0123456789abcdef"


def all_routes():
    """Every route there is, once for each of its methods."""
    settings = load_settings(database_url="sqlite://")
    store = open_store(settings)
    app = create_app(ApiState(Catalog([MockEngine()]), KeyCheck(KEY), settings, store))._app
    store.close()
    return [(method, route) for route in app.routes for method in sorted(route.methods)]


def path_of(route):
    """An address that leads to a route."""
    return re.sub(r"\{[^}]*\}", "mock", route.path)


class Gate:
    """Holds the fake runner's steps until it is opened."""

    def __init__(self):
        self._open = threading.Event()
        self.entered = threading.Event()

    def __call__(self, items):
        self.entered.set()
        assert self._open.wait(30), "the gate was never opened"

    def open(self):
        self._open.set()


class Recorder(MockEngine):
    """Keeps what it was asked."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.requests = []

    def generate(self, request):
        self.requests.append(request)
        return super().generate(request)


@pytest.fixture
def serve():
    """Makes live servers; all are stopped, and their engines closed, at the end."""
    made = []

    def make(*engines, **settings):
        engines = engines or (MockEngine(),)
        server = Server(engines, host="127.0.0.1", port=0, api_key=KEY, settings=load_settings(**settings))
        server.start()
        made.append(server)
        return server

    yield make
    for server in made:
        server.stop(drain_s=0)
        for engine in server.engines:
            engine.close()


@contextlib.contextmanager
def serving(home, *engines, aliases=None, **settings):
    """A live server for a whole module."""
    settings = load_settings(home=home, **settings)
    server = Server(engines, host="127.0.0.1", port=0, api_key=KEY, settings=settings, aliases=aliases)
    server.start()
    try:
        yield server
    finally:
        server.stop(drain_s=0)
        for engine in engines:
            engine.close()


@pytest.fixture(scope="session")
def pocket_server(tmp_path_factory, pocket_engine):
    """A live server with the pocket model, for all tests that only ask it."""
    with serving(tmp_path_factory.mktemp("pocket"), pocket_engine) as server:
        yield server


@pytest.fixture
def local_engine():
    """Makes a local engine over the fake runner; the server's fixture closes it."""
    from tests.engines.conftest import make_local  # needs torch, which the kernel tests beside do without

    return make_local


@pytest.fixture
def http():
    """Makes an HTTP client that sends the key."""
    clients = []

    def make(server, **options):
        headers = {"Authorization": f"Bearer {KEY}", **options.pop("headers", {})}
        client = httpx.Client(base_url=server.url, headers=headers, timeout=30, trust_env=False, **options)
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@contextlib.contextmanager
def asking(server, path, body):
    """A request whose answer nobody reads; its client leaves when the block ends."""
    connection = http_client.HTTPConnection("127.0.0.1", server.port)
    try:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        yield
    finally:
        connection.close()


def wait_until(condition, timeout_s=60):
    """Wait for something another thread does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.005)


def chat(text="one two three", **fields):
    """The body of a chat request."""
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, **fields}


def error_of(response, status):
    """The error object of a response, in OpenAI's shape."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert response.headers["x-request-id"].startswith("req_")
    return body["error"]
