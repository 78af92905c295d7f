"""Errors of the Messages API: ``{"type": "error", "error": {"type", "message"}}``, with the statuses of all routes.

The field at fault and the code stand beside, as on all routes.

Source: Anthropic API reference, "Errors".
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmapi_kit.api.errors import error_response, from_store, from_validation
from llmapi_kit.api.request_record import current_request
from llmapi_kit.api.routes import KeyedRoute
from llmapi_kit.api.variants import Handler
from llmapi_kit.errors import GenerationError, RequestError, StoreError

logger = logging.getLogger(__name__)

TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
# What tells the SDK's tool runner to send whole conversations, with no thread.
NO_THREADS = "thread_unsupported_request"


class MessagesRoute(KeyedRoute):
    """A route whose errors have this API's shape, and whose answers its header with the request's id."""

    has_own_errors = True

    def get_route_handler(self) -> Handler:
        """The handler, which raises nothing."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                response = await handler(request)
            except Exception as exc:
                response = _failed(exc)
            response.headers["request-id"] = _request_id()
            return response

        return handle


def failure(error: RequestError) -> dict[str, Any]:
    """The JSON of an error."""
    kind = TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    body: dict[str, Any] = {"type": kind, "message": error.message, "param": error.param, "code": error.code}
    if error.code == NO_THREADS:
        body["details"] = {"error_code": NO_THREADS, "unsupported": [error.param]}
    return {"type": "error", "error": body, "request_id": _request_id()}


def _failed(exc: Exception) -> Response:
    error = _as_request_error(exc)
    plain = error_response(error)
    headers = {name: value for name, value in plain.headers.items() if name in ("retry-after", "www-authenticate")}
    return JSONResponse(failure(error), error.status, headers)


def _as_request_error(exc: Exception) -> RequestError:
    if isinstance(exc, RequestError):
        return exc
    if isinstance(exc, StoreError):
        return from_store(exc)
    if isinstance(exc, RequestValidationError):
        return from_validation(exc.errors())
    logger.error("A message failed: %r", exc, exc_info=exc)
    return GenerationError("The server failed on this request; its log has the details.")


def _request_id() -> str:
    record = current_request.get()
    return record.id if record is not None else ""
