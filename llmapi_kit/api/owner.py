"""Whose a request is: what is kept belongs to a key, and only the same key sees it."""

from __future__ import annotations

from starlette.requests import Request

from llmapi_kit.api.state import state_of


def owner_of(request: Request) -> str:
    """The id of the key that a request came with; it is not the key."""
    return state_of(request).key_check.key_id
