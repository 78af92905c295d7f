"""One live server a module, and a connection on which bytes are sent as they are."""

from __future__ import annotations

import contextlib
import json
import socket

import httpx
import pytest

from llmapi_kit.engines.mock import MockEngine
from tests.api import conftest as api_tests
from tests.api.conftest import KEY, chat

__all__ = ["KEY", "chat"]

CHAT = "/v1/chat/completions"
DEADLINE_S = 60.0


def serving(home, *engines, **settings):
    """A live server, in a `with` block; its engines are closed with it."""
    return api_tests.serving(home, *(engines or (MockEngine(),)), database_url="sqlite://", **settings)


def connect(server, *, is_keyed=True):
    """A client, with the key or without."""
    headers = {"Authorization": f"Bearer {KEY}"} if is_keyed else {}
    return httpx.Client(base_url=server.url, headers=headers, timeout=DEADLINE_S, trust_env=False)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """What most modules attack."""
    with serving(tmp_path_factory.mktemp("home")) as made:
        yield made


@pytest.fixture(scope="module")
def client(server):
    """Somebody who has the key."""
    with connect(server) as made:
        yield made


@pytest.fixture(scope="module")
def stranger(server):
    """Somebody who has not."""
    with connect(server, is_keyed=False) as made:
        yield made


def exchange(server, request):
    """Send bytes and read until the server closes the connection; status, and all that came."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) as raw:
        with contextlib.suppress(ConnectionError):  # it may have been refused before it was all sent
            raw.sendall(request)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while part := raw.recv(65_536):
                answer += part
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else None, answer


def request_bytes(method="GET", path="/v1/models", *, host="localhost", key=KEY, more=(), body=b""):
    """A request as it stands on the wire; the connection ends after its answer."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *more]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def code_of(response):
    """The code of an error, in OpenAI's shape."""
    return json.loads(response.text)["error"]["code"]
