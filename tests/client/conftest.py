"""A live server without a model, and clients of it."""

from __future__ import annotations

import pytest

from llmapi_kit.config import load_settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.server.server import Server

KEY = "sk-llmapi-client-0123456789abcdef"


@pytest.fixture
def serve():
    """Makes live servers, which this machine's clients find; stopped at the end."""
    made = []

    def make(*engines, **settings):
        server = Server(
            engines or (MockEngine(),), host="127.0.0.1", port=0, api_key=KEY, settings=load_settings(**settings)
        )
        server.start()
        made.append(server)
        return server

    yield make
    for server in made:
        server.stop(0)
