"""Engines as deployments of Ray Serve, on as many machines as a Ray cluster has. Nothing else imports Ray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def app(args: Mapping[str, Any]) -> Any:
    """The application of ``serve run llmapi_kit.cluster:app`` and of Serve's configuration files.

    Args:
        args: see `llmapi_kit.cluster.arguments.read_arguments`.

    Raises:
        LlmApiKitError: an argument can't be used, or there is no such model.
    """
    from llmapi_kit.cluster.application import application

    return application(args)
