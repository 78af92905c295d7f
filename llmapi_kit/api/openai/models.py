"""The models this server answers with."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from llmapi_kit.api.openai.response_schemas import ModelCard, ModelList
from llmapi_kit.api.openapi import answers
from llmapi_kit.api.routes import KeyedRoute
from llmapi_kit.api.state import state_of
from llmapi_kit.engines.base import Engine

router = APIRouter(route_class=KeyedRoute, prefix="/v1/models", tags=["models"])


@router.get("", summary="List models", response_model=None, responses=answers(ModelList))
async def list_models(request: Request) -> dict[str, Any]:
    """Every model and adapter, the default first; then the aliases, as clients look a name up before they use it."""
    catalog = state_of(request).catalog
    models = [_describe(engine) for engine in catalog.listed()]
    aliases = [_describe(catalog.get(model), alias) for alias, model in catalog.aliases().items()]
    return {"object": "list", "data": [*models, *aliases]}


@router.get("/{model:path}", summary="Retrieve a model", response_model=None, responses=answers(ModelCard))
async def retrieve_model(model: str, request: Request) -> dict[str, Any]:
    """One model, by name or alias; its id may contain slashes."""
    catalog = state_of(request).catalog
    return _describe(catalog.get(model), model if model in catalog.aliases() else None)


def _describe(engine: Engine, alias: str | None = None) -> dict[str, Any]:
    info = engine.info
    return {
        "id": alias or info.id,
        "object": "model",
        "created": info.created,
        "owned_by": info.owned_by,
        "root": info.root or info.id,
        "parent": info.parent or None,
        "llmapi_kit": {
            "context_length": info.context_length,
            "capabilities": list(info.capabilities),
            "description": info.description,
            "num_parameters": info.num_parameters,
            "device": info.device,
            "dtype": info.dtype,
            "defaults": dict(info.defaults),
            "state": engine.readiness().state,
            "alias_of": info.id if alias else None,
        },
    }
