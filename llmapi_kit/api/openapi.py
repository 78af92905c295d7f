"""The OpenAPI document: what FastAPI knows of the routes, and what it can't know.

That is the key which a route asks for, the errors it can end in, the id on every answer, and that a body may have no
other fields than its own. Routes say with `answers` and `examples` what they send and take. Made once an application,
on the server's event loop, when somebody asks for it.

Source: OpenAPI 3.1, "Responses Object"; an event stream is described event by event, as OpenAPI 3.2 recommends in
"Sequential Media Types".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from llmapi_kit.api.auth import KEY_HEADERS
from llmapi_kit.api.errors import error_body
from llmapi_kit.api.routes import KeyedRoute, PublicRoute, TokenRoute
from llmapi_kit.api.variants import Variant
from llmapi_kit.errors import (
    AuthenticationError,
    BodyTooLargeError,
    EngineUnavailableError,
    ForbiddenError,
    GenerationError,
    InvalidRequestError,
    NotFoundError,
    QueueFullError,
    RequestError,
    RequestTimeoutError,
    UnsupportedMediaTypeError,
    UpstreamError,
)

SCHEMA_REF = "#/components/schemas/{model}"
KEY, TOKEN = "key", "token"
KEY_SCHEMES = (KEY, *KEY_HEADERS)
HEADERS: Mapping[str, Any] = {
    "x-request-id": {"description": "Names the request in the server's log.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"schema": {"type": "string"}},
}
# One example of each error; its class says the rest.
EVERY_ROUTE: Sequence[RequestError] = (
    ForbiddenError("This server is not known as 'example.com'.", code="host_not_allowed"),
    GenerationError("The model failed on this request; the server's log has the details."),
)
KEYED_ROUTES: Sequence[RequestError] = (AuthenticationError("The API key is wrong."),)
ROUTES_WITH_A_MODEL: Sequence[RequestError] = (
    NotFoundError("The model 'gpt-4' is not served here.", param="model", code="model_not_found"),
)
ROUTES_WITH_FIELDS: Sequence[RequestError] = (
    InvalidRequestError("temperature is 3; it must be at least 0 and at most 2.", param="temperature"),
)
ROUTES_WITH_A_BODY: Sequence[RequestError] = (
    *ROUTES_WITH_FIELDS,
    BodyTooLargeError("The body is larger than 2,000,000 bytes, the most this server takes."),
    UnsupportedMediaTypeError("The body has Content-Encoding 'gzip'. Send it as it is."),
    QueueFullError("128 requests wait already.", retry_after_s=1),
    EngineUnavailableError("The server is stopping and takes no new requests.", retry_after_s=5),
    RequestTimeoutError("The request was not complete within 600 s, so it was stopped."),
    UpstreamError("openai failed (HTTP 500). Try again later."),
)
ALL_ERRORS = (*EVERY_ROUTE, *KEYED_ROUTES, *ROUTES_WITH_A_MODEL, *ROUTES_WITH_A_BODY)


class Sent(BaseModel):
    """A JSON object that is sent, with these fields and no others. Nothing is built or checked with it."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetails(Sent):
    """What went wrong."""

    message: str = Field(description="What happened, what is allowed, what to do.")
    type: str
    param: str | None = Field(description="The request's field at fault.")
    code: str | None = Field(description="For programs, such as context_length_exceeded.")


class Error(Sent):
    """An error; a stream that fails ends in one."""

    error: ErrorDetails


def answers(
    whole: type[Sent], *, event: type[Sent] | None = None, failure: type[Sent] | None = None
) -> dict[int | str, dict[str, Any]]:
    """What a route sends when all is well, for the argument `responses` of a route.

    Args:
        whole: the answer.
        event: a piece of it, where it can be streamed.
        failure: what stands in its place with the same status, in an API that has its own errors; its streams end
            with the whole answer.
    """
    answer: dict[str, Any] = {"model": whole, "description": whole.__doc__}
    if failure is not None:
        answer["model"] = whole | failure
    if event is not None:
        ends = [Error] if failure is None else [whole, failure]
        answer["content"] = _events(_payload(event), *map(_payload, ends), {"const": "[DONE]"})
        answer["description"] = f"{whole.__doc__} With stream=true its pieces, as server-sent events."
    return {200: answer}


def streams(event: type[Sent]) -> dict[int | str, dict[str, Any]]:
    """What a route sends that always streams, for the argument `responses` of a route."""
    content = _events(_payload(event), _payload(Error))
    return {200: {"description": f"{event.__doc__} As server-sent events.", "content": content}}


def examples(**bodies: Mapping[str, Any]) -> dict[str, Any]:
    """Bodies a reader can try, by what they show, for the argument `openapi_extra` of a route."""
    named = {name: {"summary": name.replace("_", " "), "value": dict(body)} for name, body in bodies.items()}
    return {"requestBody": {"content": {"application/json": {"examples": named}}}}


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of an application."""
    if app.openapi_schema is None:
        made = app.openapi()
        components = made.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which are never sent
            schemas.pop(name, None)
        # Also what no route has for its whole answer: errors, and the pieces of streams
        sent = [_definition(model) for model in Sent.__subclasses__()]
        taken = [_taken(variant) for variants in app.state.api.variants.values() for variant in variants]
        schemas |= models_json_schema(sent + taken, ref_template=SCHEMA_REF)[1]["$defs"]
        components["headers"] = dict(HEADERS)
        components["responses"] = {type(error).__name__: _error_response(error) for error in ALL_ERRORS}
        components["securitySchemes"] = {
            KEY: {
                "type": "http",
                "scheme": "bearer",
                "description": "server.api_key in the notebook that launched it.",
            },
            **{name: {"type": "apiKey", "in": "header", "name": name} for name in KEY_HEADERS},
            TOKEN: {"type": "apiKey", "in": "query", "name": "token", "description": "From POST /chat-sse/token."},
        }
        for schema in schemas.values():
            if schema.get("additionalProperties") is True and "properties" in schema:
                schema["additionalProperties"] = {"type": "null"}  # any other value is refused by name
        for route, operation in _operations(app, made):
            _complete(route, operation)
            for variant in app.state.api.variants.get(route.path, ()) if route.body_field is not None else ():
                _add_variant(variant, operation)
        app.openapi_schema = made
    return app.openapi_schema


def _operations(app: FastAPI, made: Mapping[str, Any]) -> Iterator[tuple[PublicRoute, dict[str, Any]]]:
    for route in app.routes:
        if isinstance(route, PublicRoute) and route.include_in_schema:
            for method in sorted(route.methods or ()):
                yield route, made["paths"][route.path_format][method.lower()]


def _complete(route: PublicRoute, operation: dict[str, Any]) -> None:
    """Add to an operation what its route's class and arguments imply."""
    errors = list(EVERY_ROUTE)
    operation["operationId"] = route.name
    operation["security"] = []
    if isinstance(route, KeyedRoute):
        operation["security"] = [{scheme: []} for scheme in KEY_SCHEMES]
        errors += KEYED_ROUTES
    if isinstance(route, TokenRoute):
        operation["security"] = [{TOKEN: []}]
        errors += (*KEYED_ROUTES, *ROUTES_WITH_A_MODEL, *ROUTES_WITH_A_BODY)
    if route.dependant.query_params:
        errors += ROUTES_WITH_FIELDS
    if route.body_field is not None:
        errors += ROUTES_WITH_A_BODY
    if route.body_field is not None or route.param_convertors:
        errors += ROUTES_WITH_A_MODEL
    if route.has_own_errors:
        errors = [error for error in errors if error.status == ForbiddenError.status]
    responses = operation["responses"]
    responses.pop("422", None)  # a field that is wrong is a 400
    for response in responses.values():
        response["headers"] = {"x-request-id": {"$ref": "#/components/headers/x-request-id"}}
        for content in response.get("content", {}).values():
            if "$ref" in content["schema"]:  # beside it FastAPI leaves what the handler's annotation says
                content["schema"] = {"$ref": content["schema"]["$ref"]}
    for error in errors:
        responses.setdefault(str(error.status), {"$ref": f"#/components/responses/{type(error).__name__}"})
    operation["responses"] = dict(sorted(responses.items()))


def _add_variant(variant: Variant, operation: dict[str, Any]) -> None:
    """Add another way of speaking at a path: what else is taken there, and what else is sent."""
    for holder, model in ((operation["requestBody"], variant.takes), (operation["responses"]["200"], variant.sends)):
        content = holder["content"]["application/json"]
        known = content["schema"].get("anyOf", [content["schema"]])
        content["schema"] = {"anyOf": [*known, _ref(model)]}


def _taken(variant: Variant) -> tuple[type[BaseModel], JsonSchemaMode]:
    return variant.takes, "validation"


def _error_response(error: RequestError) -> dict[str, Any]:
    names = ["x-request-id"]
    names += ["Retry-After"] if error.retry_after_s is not None else []
    names += ["WWW-Authenticate"] if error.status == 401 else []
    return {
        "description": type(error).__doc__,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
        "content": {"application/json": {"schema": _ref(Error), "example": error_body(error)}},
    }


def _events(*data: Mapping[str, Any]) -> dict[str, Any]:
    """The content of an event stream, by what an event may hold."""
    schema = {"type": "object", "properties": {"data": {"anyOf": list(data)}}, "required": ["data"]}
    return {"text/event-stream": {"schema": schema}}


def _payload(model: type[Sent]) -> dict[str, Any]:
    """The data of an event: a JSON object, as text."""
    return {"type": "string", "contentMediaType": "application/json", "contentSchema": _ref(model)}


def _definition(model: type[Sent]) -> tuple[type[BaseModel], JsonSchemaMode]:
    return model, "serialization"


def _ref(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": SCHEMA_REF.format(model=model.__name__)}
