"""Whom a chat is with: from what people pass to who answers. Opens no connection."""

from __future__ import annotations

import os
import re
from typing import Any

from llmapi_kit.client import RemoteServer
from llmapi_kit.config import KEY_VARIABLE
from llmapi_kit.engines.base import Engine
from llmapi_kit.errors import ConfigError, ServerError
from llmapi_kit.kit import connect, load
from llmapi_kit.loading.model import Model
from llmapi_kit.notebook.chat.backend import Backend, EngineBackend
from llmapi_kit.notebook.chat.http_backend import HttpBackend, read_base_url
from llmapi_kit.server.server import Server

URL = re.compile(r"[a-z]+://|localhost\b|[\w.-]+:\d+(/|$)", re.IGNORECASE)


def read_target(target: Any, api_key: str | None = None) -> Backend:
    """Who answers for a target.

    Args:
        target: a server, a connection, a model, an engine, a URL, a model's name, or None for the newest server of
            this machine.
        api_key: for a URL; for a server of this machine it is found by itself, else in ``LLMAPI_KIT_API_KEY``.

    Raises:
        ConfigError: it is none of these, or a key goes with something else than a URL.
        ServerNotFoundError: None, and no server runs here.
        ModelNotFoundError: there is no model of that name.
    """
    if isinstance(target, str) and URL.match(target):
        return _at_url(target, api_key)
    if api_key is not None:
        raise ConfigError("api_key goes with a URL; a server, a connection and a model have what they need.")
    if target is None:
        target = connect()
    if isinstance(target, str):
        target = load(target, lazy=True)
    if isinstance(target, Server):
        return HttpBackend(lambda: _remote(target))
    if isinstance(target, RemoteServer):
        return HttpBackend(lambda: target)
    if isinstance(target, Model):
        return EngineBackend(target.engine)
    if isinstance(target, Engine):
        return EngineBackend(target)
    raise ConfigError(
        f"A chat can't be with {type(target).__name__}. Pass what kit.launch, kit.connect or kit.load returned, a URL, "
        "a model's name, or a list of two of these."
    )


def _at_url(url: str, api_key: str | None) -> Backend:
    """A server of this machine has its key in the registry; anybody else gets only the key that was given for it."""
    base_url = read_base_url(url)
    if base_url is None and api_key is None:
        remote = connect(url) if _is_here(url) else RemoteServer(url, os.environ.get(KEY_VARIABLE))
    else:
        remote = RemoteServer(url, api_key)
    return HttpBackend(lambda: remote, base_url)


def _is_here(url: str) -> bool:
    return re.match(r"(https?://)?(localhost|127\.0\.0\.1)\b", url.strip()) is not None


def _remote(server: Server) -> RemoteServer:
    if not server.is_running:
        raise ServerError(f"The server at {server.url} is stopped. Launch it again, and run kit.chat(server) again.")
    return RemoteServer(server.url, server.api_key)
