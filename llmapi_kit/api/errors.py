"""Every error leaves in OpenAI's shape: one table from exceptions to responses.

``{"error": {"message", "type", "param", "code"}}``, with Retry-After where waiting helps. A user's mistake is never
a 5xx: clients retry those.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from llmapi_kit.api.request_record import note_error
from llmapi_kit.errors import (
    EngineUnavailableError,
    GenerationError,
    InvalidRequestError,
    RequestError,
    StoreError,
    StoreUnavailableError,
)

logger = logging.getLogger(__name__)

TYPES = ("str", "int", "float", "bool")
HTTP_TYPES = {404: "invalid_request_error", 405: "invalid_request_error"}


def error_body(error: RequestError) -> dict[str, Any]:
    """The JSON of an error."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def error_response(error: RequestError) -> JSONResponse:
    """The response of an error."""
    note_error(error.code)
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error), error.status, headers)


def from_validation(errors: Sequence[Any]) -> InvalidRequestError:
    """The first problem pydantic found, as an error that names the field."""
    problem = errors[0]
    location = [str(part) for part in problem["loc"][1:]]  # the first is where: body, query or path
    # Of a union, pydantic adds the name of the variant that failed last; the field is what comes before it.
    named = [part for part in location if (part.isidentifier() and part not in TYPES) or part.isdigit()]
    param = ".".join(named) or None
    if problem["type"] == "missing" and param is not None:
        return InvalidRequestError(f"The field {param} is missing.", param=param)
    value = "" if isinstance(problem.get("input"), dict | list) else f" (got {str(problem.get('input'))[:80]!r})"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if param is None:
        return InvalidRequestError(
            f"The body is not valid: {message}. Send a JSON object, with 'Content-Type: application/json'."
        )
    return InvalidRequestError(f"{param}: {message}{value}.", param=param)


def from_store(error: StoreError) -> RequestError:
    """What a client is told of a database that failed: nothing of where it is."""
    logger.error("%s", error)
    if isinstance(error, StoreUnavailableError):
        return EngineUnavailableError(
            "The server's database does not answer now; its log has the details.",
            code="database_unavailable",
            retry_after_s=5,
        )
    return GenerationError("The server's database failed; its log has the details.", code="database_failed")


def install(app: FastAPI) -> None:
    """Make `app` answer every error in this shape."""

    async def on_request_error(request: Request, exc: Exception) -> Response:
        if not isinstance(exc, RequestError):
            raise exc
        return error_response(exc)

    async def on_validation(request: Request, exc: Exception) -> Response:
        if not isinstance(exc, RequestValidationError):
            raise exc
        return error_response(from_validation(exc.errors()))

    async def on_http(request: Request, exc: Exception) -> Response:
        if not isinstance(exc, HTTPException):
            raise exc
        error = RequestError(_http_message(request, exc), code="not_found" if exc.status_code == 404 else None)
        error.status, error.type = exc.status_code, HTTP_TYPES.get(exc.status_code, "server_error")
        response = error_response(error)
        response.headers.update(exc.headers or {})
        if exc.status_code == 405:
            response.headers["Allow"] = ", ".join(_allowed(request))
        return response

    async def on_store_error(request: Request, exc: Exception) -> Response:
        if not isinstance(exc, StoreError):
            raise exc
        return error_response(from_store(exc))

    async def on_bug(request: Request, exc: Exception) -> Response:
        return error_response(GenerationError("The server failed on this request; its log has the details."))

    app.add_exception_handler(RequestError, on_request_error)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(StoreError, on_store_error)
    app.add_exception_handler(Exception, on_bug)


def _allowed(request: Request) -> list[str]:
    """The methods that a path takes, over all of its routes: Starlette tells those of the first."""
    found = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    methods = {method for route in found for method in route.methods}
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


def _http_message(request: Request, exc: HTTPException) -> str:
    if exc.status_code == 404:
        return f"There is no {request.method} {request.url.path} here. The API is under /v1, e.g. /v1/models."
    if exc.status_code == 405:
        return f"{request.url.path} does not take {request.method}."
    return str(exc.detail)
