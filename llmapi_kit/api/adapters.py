"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter, as vLLM has them: LoRA adapters while the server runs.

For the server's own key, and never through a tunnel: what is loaded are folders of this machine.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from llmapi_kit.api.openai.request_body import StrictModel
from llmapi_kit.api.openapi import examples
from llmapi_kit.api.routes import OwnerLocalRoute
from llmapi_kit.api.state import state_of
from llmapi_kit.engines.adapters import Adapters, adapters_of, check_adapter_name, served_name
from llmapi_kit.engines.base import Engine
from llmapi_kit.errors import (
    ConfigError,
    InvalidRequestError,
    LlmApiKitError,
    ModelNotFoundError,
    NotFoundError,
    RequestError,
)

router = APIRouter(route_class=OwnerLocalRoute, tags=["adapters"])
SENTENCE: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


class AdapterBody(StrictModel):
    """What both bodies have."""

    model: str | None = Field(None, description="That the adapter goes with; left out, the server's default.")


class LoadAdapterBody(AdapterBody):
    """Body of POST /v1/load_lora_adapter."""

    lora_name: str = Field(description="Of the adapter; requests name it as model:lora_name.")
    lora_path: str = Field(description="A folder of this machine in PEFT's format, or a hub name.")
    load_inplace: bool | None = Field(None, description="Take the place of an adapter of that name.")


class UnloadAdapterBody(AdapterBody):
    """Body of POST /v1/unload_lora_adapter."""

    lora_name: str = Field(description="Of the adapter, or model:lora_name.")


@router.post(
    "/v1/load_lora_adapter",
    summary="Load a LoRA adapter",
    response_class=PlainTextResponse,
    responses=SENTENCE,
    openapi_extra=examples(A_folder={"lora_name": "sql", "lora_path": "./sql-lora"}),
)
async def load_adapter(body: LoadAdapterBody, request: Request) -> PlainTextResponse:
    """Answer with an adapter besides, from now on. Requests that are under way go on meanwhile."""
    body.refuse_unsupported()
    engine, adapters = await _adaptable(body, request)
    name = _bare_name(body.lora_name, engine)
    try:
        check_adapter_name(name)
        await asyncio.to_thread(adapters.add, body.lora_path, name, is_replacing=bool(body.load_inplace))
    except RequestError:
        raise
    except ConfigError as exc:
        raise InvalidRequestError(f"lora_name: {exc}", param="lora_name") from exc
    except ModelNotFoundError as exc:
        raise NotFoundError(f"lora_path: {exc}", param="lora_path") from exc
    except LlmApiKitError as exc:
        raise InvalidRequestError(f"lora_path: {exc}", param="lora_path") from exc
    model = served_name(engine.info.id, name)
    return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully. Requests name it as {model!r}.")


@router.post(
    "/v1/unload_lora_adapter",
    summary="Unload a LoRA adapter",
    response_class=PlainTextResponse,
    responses=SENTENCE,
    openapi_extra=examples(By_name={"lora_name": "sql"}),
)
async def unload_adapter(body: UnloadAdapterBody, request: Request) -> PlainTextResponse:
    """Answer no new requests with an adapter. Those under way end as they would; then its memory is free."""
    body.refuse_unsupported()
    engine, adapters = await _adaptable(body, request)
    name = _bare_name(body.lora_name, engine)
    try:
        await asyncio.to_thread(adapters.remove, name)
    except ConfigError as exc:
        raise NotFoundError(f"lora_name: {exc}", param="lora_name") from exc
    return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")


async def _adaptable(body: LoadAdapterBody | UnloadAdapterBody, request: Request) -> tuple[Engine, Adapters]:
    """The model whose adapters are meant: the one that is named, or that the adapter's name begins with."""
    catalog = state_of(request).catalog
    base = next((e.info.id for e in catalog.all() if body.lora_name.startswith(served_name(e.info.id, ""))), None)
    engine = await catalog.find(body.model or base)
    adapters = adapters_of(engine)
    if adapters is None:
        raise InvalidRequestError(f"The model {engine.info.id!r} takes no LoRA adapters.", param="model")
    return engine, adapters


def _bare_name(name: str, engine: Engine) -> str:
    return name.removeprefix(served_name(engine.info.id, ""))
