"""The models this server answers with."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from llmapi_kit.api.openai.answer_schemas import ModelCard, ModelList
from llmapi_kit.api.openapi import answers
from llmapi_kit.api.routes import KeyedRoute
from llmapi_kit.api.state import state_of
from llmapi_kit.types import EngineInfo

router = APIRouter(route_class=KeyedRoute, prefix="/v1/models", tags=["models"])


@router.get("", summary="List models", response_model=None, responses=answers(ModelList))
async def list_models(request: Request) -> dict[str, Any]:
    """Every model, the default one first."""
    return {"object": "list", "data": [_describe(engine.info) for engine in state_of(request).catalog.all()]}


@router.get("/{model:path}", summary="Retrieve a model", response_model=None, responses=answers(ModelCard))
async def retrieve_model(model: str, request: Request) -> dict[str, Any]:
    """One model; its id may contain slashes."""
    return _describe(state_of(request).catalog.get(model).info)


def _describe(info: EngineInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "object": "model",
        "created": info.created,
        "owned_by": info.owned_by,
        "llmapi_kit": {
            "context_length": info.context_length,
            "capabilities": list(info.capabilities),
            "description": info.description,
            "num_parameters": info.num_parameters,
            "device": info.device,
            "dtype": info.dtype,
        },
    }
