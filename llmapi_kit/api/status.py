"""GET /v1/status: the whole server at a glance, for whoever launched it."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request

from llmapi_kit.api.openapi import Sent, answers
from llmapi_kit.api.routes import OwnerRoute
from llmapi_kit.api.running_requests import RequestState, RunningRequest, running_requests
from llmapi_kit.api.state import ApiState, state_of
from llmapi_kit.config import DAY_S
from llmapi_kit.engines.base import Engine
from llmapi_kit.store.counts import Counts

router = APIRouter(route_class=OwnerRoute, tags=["keys"])


class ModelStatus(Sent):
    """A model's counters since it started, and its latencies."""

    id: str
    num_running: int = Field(description="Requests that hold a slot.")
    num_queued: int = Field(description="Requests that wait for one.")
    num_slots: int = Field(description="Requests that can run at once.")
    kv_use: float = Field(description="Share of the KV memory that holds something, 0 to 1.")
    num_finished: int = Field(description="Requests answered in full.")
    num_failed: int = Field(description="Requests that ended in an error.")
    num_cancelled: int = Field(description="Requests whose client left.")
    num_preemptions: int = Field(description="How often one lost its slot to others, as the KV memory ran out.")
    num_prompt_tokens: int
    num_cached_tokens: int = Field(description="Of these, not computed again.")
    num_completion_tokens: int
    num_guessed_tokens: int = Field(description="Guessed and computed, with the setting draft.")
    num_right_guesses: int
    tokens_per_s: float = Field(description="Made a second, lately.")
    num_loads: int = Field(description="How often it was loaded when it was asked for.")
    num_failed_loads: int
    num_unloads: int
    load_s: float = Field(description="Seconds that loading took in all.")
    ttft_p50_s: float | None = Field(description="Seconds to the first token, half of the requests; null for too long.")
    ttft_p99_s: float | None
    inter_token_p50_s: float | None = Field(description="Seconds between two tokens; null for too long.")
    inter_token_p99_s: float | None


class RequestStatus(Sent):
    """A generation under way."""

    id: str
    key: str = Field(description="The name of its key.")
    route: str = Field(description="Method and path.")
    model: str
    state: RequestState
    prompt_tokens: int = Field(description="0 before it is known.")
    completion_tokens: int = Field(description="Made so far.")
    seconds: float = Field(description="Since it came.")


class KeyStatus(Sent):
    """A key that is not revoked."""

    name: str
    is_paused: bool
    running: int = Field(description="Its generations under way.")
    requests_today: int = Field(description="Since midnight in UTC.")
    tokens_today: int = Field(description="Of prompts and answers, since midnight in UTC.")


class TunnelState(Sent):
    """How the tunnel is."""

    kind: str
    state: str
    public_url: str | None
    reason: str | None = Field(description="What is wrong with it.")


class Status(Sent):
    """The server at a glance."""

    object: Literal["status"]
    models: list[ModelStatus] = Field(description="The default one first.")
    requests: list[RequestStatus] = Field(description="The oldest first.")
    keys: list[KeyStatus] = Field(description="The owner's first; empty where no key is asked for.")
    tunnel: TunnelState | None = Field(description="Null without one.")
    started_at: int = Field(description="Unix time in seconds.")


@router.get("/v1/status", summary="The server at a glance", response_model=None, responses=answers(Status))
async def read_status(request: Request) -> dict[str, Any]:
    """Models, requests under way, keys and tunnel; only for the key that the server was launched with."""
    state = state_of(request)
    running = running_requests(state.active)
    return {
        "object": "status",
        "models": [_model(engine) for engine in state.catalog.all()],
        "requests": [asdict(each) for each in running],
        "keys": await _keys(state, running),
        "tunnel": state.tunnel(),
        "started_at": int(state.started_at),
    }


def _model(engine: Engine) -> dict[str, Any]:
    stats = engine.stats().summary()
    return {"id": engine.info.id, **{name: value if math.isfinite(value) else None for name, value in stats.items()}}


async def _keys(state: ApiState, running: list[RunningRequest]) -> list[dict[str, Any]]:
    if state.key_check.is_open:
        return []
    owner = state.key_check.owner
    keys = [key for key in state.key_check.ring.all() if key.revoked_at is None]
    now = time.time()
    used = await state.store.usage.totals([owner.id, *(key.id for key in keys)], now - now % DAY_S, now + 1)
    num_running = Counter(each.key for each in running)
    every = [(owner.id, owner.name, False), *((key.id, key.name, key.is_paused) for key in keys)]
    return [_key(name, is_paused, num_running, used.get(key_id, Counts())) for key_id, name, is_paused in every]


def _key(name: str, is_paused: bool, num_running: Mapping[str, int], used: Counts) -> dict[str, Any]:
    return {
        "name": name,
        "is_paused": is_paused,
        "running": num_running[name],
        "requests_today": used.requests,
        "tokens_today": used.tokens,
    }
