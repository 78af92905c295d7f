"""Whether the server lives, and whether it can answer."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from llmapi_kit.api.openapi import Sent, answers
from llmapi_kit.api.routes import KeyedRoute, PublicRoute
from llmapi_kit.api.state import state_of
from llmapi_kit.types import LoadState

public = APIRouter(route_class=PublicRoute, tags=["health"])
keyed = APIRouter(route_class=KeyedRoute, tags=["health"])


class Alive(Sent):
    """The server is alive."""

    status: Literal["ok"]
    instance: str


class ModelReadiness(Sent):
    """Whether a model can answer."""

    ready: bool
    reason: str | None
    state: LoadState


class Readiness(Sent):
    """Whether the server can answer, and each of its models."""

    ready: bool
    reason: str | None
    models: dict[str, ModelReadiness]


# What llama.cpp's and vLLM's clients, and load balancers, ask
@public.get("/health", include_in_schema=False)
@public.get("/v1/health", include_in_schema=False)
@public.get("/ping", include_in_schema=False)
@public.get("/healthz", summary="Is the server alive?", response_model=None, responses=answers(Alive))
async def healthz(request: Request) -> dict[str, str]:
    """Alive, and which server this is. Asks for no key and tells nothing else."""
    return {"status": "ok", "instance": state_of(request).instance}


@keyed.get(
    "/readyz",
    summary="Can it answer?",
    response_model=None,
    responses=answers(Readiness) | {503: {"model": Readiness, "description": "It can't; each model says why."}},
)
async def readyz(request: Request) -> JSONResponse:
    """Ready when every model is; 503 with the reasons otherwise. One that the next request would load is ready."""
    state = state_of(request)
    models: dict[str, dict[str, Any]] = {}
    for engine in state.catalog.all():
        readiness = engine.readiness()
        models[engine.info.id] = {
            "ready": readiness.ready,
            "reason": readiness.reason or None,
            "state": readiness.state,
        }
    reason = "The server is stopping." if state.is_draining else None
    is_ready = not state.is_draining and all(model["ready"] for model in models.values())
    return JSONResponse({"ready": is_ready, "reason": reason, "models": models}, 200 if is_ready else 503)
