"""A live server that has answered a request."""

from __future__ import annotations

import socket

import httpx
import pytest

from llmapi_kit.engines.mock import MockEngine
from tests.api.conftest import KEY, serving


@pytest.fixture(scope="session")
def live_server(tmp_path_factory):
    """A client of it, with its key."""
    with serving(tmp_path_factory.mktemp("home"), MockEngine()) as server:
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", headers=headers) as client:
            body = {"model": "mock", "messages": [{"role": "user", "content": "Hello"}]}
            assert client.post("/v1/chat/completions", json=body).status_code == 200
            yield client


@pytest.fixture
def unused_port():
    """A port that is taken, where nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
