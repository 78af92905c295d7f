"""GET /v1/key: what the caller's key is and may do."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request

from llmapi_kit.api.openapi import Sent, answers
from llmapi_kit.api.routes import KeyedRoute
from llmapi_kit.api.state import state_of

router = APIRouter(route_class=KeyedRoute, tags=["keys"])


class Limits(Sent):
    """What a key may do; null for as much as there is."""

    rpm: int | None = Field(description="Requests a minute.")
    tpm: int | None = Field(description="Tokens a minute, of prompts and answers.")
    concurrency: int | None = Field(description="Requests at once.")


class Budget(Sent):
    """How much a key may use in all."""

    tokens: int = Field(description="Of prompts and answers.")
    used: int = Field(description="Of these, used so far.")


class Key(Sent):
    """The key that was sent."""

    object: Literal["key"]
    name: str = Field(description="Of the key; owner for the one that the server was launched with.")
    is_owner: bool
    models: list[str] | None = Field(description="The models it may use; null for all.")
    limits: Limits
    budget: Budget | None = Field(description="Null for no end.")
    expires_at: int | None = Field(description="Unix time in seconds; null for never.")


@router.get("/v1/key", summary="What this key may do", response_model=None, responses=answers(Key))
async def read_key(request: Request) -> dict[str, Any]:
    """Whose key it is that asks, and its limits."""
    state = state_of(request)
    caller = state.caller
    limits = caller.limits
    budget = None if limits.budget is None else {"tokens": limits.budget, "used": state.limiter.tokens_used(caller.id)}
    return {
        "object": "key",
        "name": caller.name,
        "is_owner": caller.is_owner,
        "models": None if limits.models is None else list(limits.models),
        "limits": {"rpm": limits.rpm, "tpm": limits.tpm, "concurrency": limits.concurrency},
        "budget": budget,
        "expires_at": None if caller.expires_at is None else int(caller.expires_at),
    }
