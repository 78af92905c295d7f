"""Puts the API together: `create_app` is the one place that knows every route.

Knows nothing of threads or notebooks; `llmapi_kit.server` runs what it returns, and so can any ASGI server.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.types import ASGIApp

from llmapi_kit.api import adapters, compat, docs, errors, health, invitations, keys, metrics, page, status, usage
from llmapi_kit.api.anthropic import messages
from llmapi_kit.api.cors import CorsMiddleware
from llmapi_kit.api.openai import chat, completions, embeddings, images, models, rerank, stored, tokens
from llmapi_kit.api.openapi import document
from llmapi_kit.api.request_context import RequestContext
from llmapi_kit.api.responses import create
from llmapi_kit.api.responses import stored as stored_responses
from llmapi_kit.api.responses.runs import ResponseRuns
from llmapi_kit.api.routes import LocalRoute, PublicRoute
from llmapi_kit.api.state import ApiState
from llmapi_kit.version import __version__

DESCRIPTION = "A language model behind an OpenAI-compatible API, served from a notebook by llmapi_kit."


def create_app(state: ApiState) -> ASGIApp:
    """The ASGI application of one server.

    Args:
        state: shared by all of its requests.

    Raises:
        RuntimeError: a route is neither keyed nor public, so nobody decided who may call it.
    """
    app = FastAPI(
        title="llmapi_kit",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,  # llmapi_kit.api.docs has a page that asks for the key
        redoc_url=None,
        openapi_url=None,  # added below, behind the key
        redirect_slashes=False,  # a slash at the end is no other path, see RequestContext
    )
    app.state.api = state
    app.state.response_runs = ResponseRuns()
    errors.install(app)
    answering = (chat.router, stored.router, completions.router, embeddings.router, rerank.router)
    telling = (usage.router, keys.router, status.router, health.public, health.keyed, metrics.router, docs.router)
    others = (images.router, models.router, tokens.router, adapters.router, invitations.router)
    for router in (*answering, *others, *telling):
        app.router.routes.extend(router.routes)  # as they are: include_router wraps or copies them, by version
    app.router.routes.extend(page.router.routes)
    app.router.routes.append(LocalRoute("/openapi.json", openapi, include_in_schema=False))
    compat.install(app, state)
    for router in (create.router, stored_responses.router, messages.router):
        app.router.routes.extend(router.routes)
    check_routes(app)
    origins = state.settings.cors_origins
    return RequestContext(CorsMiddleware(app, origins) if origins else app, state)


def check_routes(app: FastAPI) -> None:
    """Raise unless every route says by its class who may call it."""
    for route in app.routes:
        if not isinstance(route, PublicRoute):
            raise RuntimeError(f"{route} is neither keyed nor public by its class: decide who may call it.")


async def openapi(request: Request) -> dict[str, Any]:
    """The OpenAPI document.

    No closure over an app: FastAPI caches what it learned of an endpoint, and would keep the app and its engines.
    """
    return document(request.app)
