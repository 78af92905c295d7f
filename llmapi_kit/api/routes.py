"""How every route begins: who may call it, and how its body is read.

A route is public, keyed, opened by a token, or for this machine only with a key or without, by its class; `create_app`
refuses any other. The key is checked by the route itself and not by the path, before the body is read. Bodies are
counted as they are received, and parsed strictly.

Source: per-route checks, because path prefixes can be got around (vLLM CVE-2026-48746).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope

from llmapi_kit.api.errors import from_validation
from llmapi_kit.api.state import state_of
from llmapi_kit.errors import BodyTooLargeError, ForbiddenError, InvalidRequestError, RequestError

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Body = TypeVar("Body", bound=BaseModel)
MAX_DIGITS = 300


@dataclass(frozen=True, slots=True)
class Variant:
    """Another way of speaking at a path that has a route already, told apart by the JSON of the body.

    Attributes:
        path: of the route.
        accepts: whether a body, parsed and not checked, speaks this way.
        answer: answers it in place of the route; key and size have been checked.
        takes: such a body, for the OpenAPI document.
        sends: what it is answered with, for the same.
    """

    path: str
    accepts: Callable[[Any], bool]
    answer: Handler
    takes: type[BaseModel]
    sends: type[BaseModel]


class StrictRequest(Request):
    """A request whose body is limited and whose JSON is checked."""

    @property
    def is_json(self) -> bool:
        """Whether it says that its body is JSON."""
        media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        return media_type == "application/json" or (
            media_type.startswith("application/") and media_type.endswith("+json")
        )

    async def body(self) -> bytes:
        """The whole body, counted as it comes in.

        Raises:
            BodyTooLargeError: it is over the limit; the rest is not read.
        """
        if not hasattr(self, "_body"):
            limit = state_of(self).settings.max_body_bytes
            parts, size = [], 0
            async for part in self.stream():
                size += len(part)
                if size > limit:
                    raise BodyTooLargeError(f"The body is larger than {limit:,} bytes, the most this server takes.")
                parts.append(part)
            self._body = b"".join(parts)
        return self._body

    async def json(self) -> Any:
        """The body as JSON.

        Raises:
            InvalidRequestError: it is not JSON, too deep, or has numbers JSON does not know.
        """
        if not hasattr(self, "_json"):
            self._json = parse_json(await self.body(), state_of(self).settings.max_json_depth)
        return self._json


class PublicRoute(APIRoute):
    """A route that anybody may call.

    Attributes:
        has_own_errors: whether it answers errors in a shape of its own, which it describes itself.
    """

    has_own_errors: ClassVar[bool] = False

    def get_route_handler(self) -> Handler:
        """The handler, with a strict request."""
        return self._strict(super().get_route_handler())

    def _strict(self, handler: Handler) -> Handler:
        async def handle(request: Request) -> Response:
            strict = request if isinstance(request, StrictRequest) else StrictRequest(request.scope, request.receive)
            try:
                # Read here, not by FastAPI, which would turn every error into "error parsing the body"
                if self.body_field is not None and await strict.body() and strict.is_json:
                    body = await strict.json()
                    for variant in state_of(strict).variants.get(self.path, ()):
                        if variant.accepts(body):
                            return await variant.answer(strict)
                return await handler(strict)
            except ClientDisconnect:
                return Response(status_code=499)  # nobody is there to read it

        return handle


class KeyedRoute(PublicRoute):
    """A route that asks for the API key before it reads anything else."""

    def get_route_handler(self) -> Handler:
        """The handler behind the key check."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            state_of(request).key_check(request)
            return await handler(request)

        return handle


class BodyKeyedRoute(KeyedRoute):
    """A keyed route whose older clients send the key in the JSON body, as ``apikey``, where they send no header."""

    def get_route_handler(self) -> Handler:
        """The handler behind the key check, which reads the body only where no header has the key."""
        handler = PublicRoute.get_route_handler(self)

        async def handle(request: Request) -> Response:
            strict = StrictRequest(request.scope, request.receive)
            check = state_of(request).key_check
            try:
                key = None if "authorization" in request.headers else await _key_in_body(strict)
            except ClientDisconnect:
                return Response(status_code=499)
            if key is None:
                check(request)
            else:
                check.check_key(key)
            return await handler(strict)

        return handle


class TokenRoute(PublicRoute):
    """A route that asks for a short-lived token in its query: for a browser's EventSource, which can send no header."""

    def get_route_handler(self) -> Handler:
        """The handler behind the token check."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            state_of(request).key_check.check_token(request.query_params.get("token", ""))
            return await handler(request)

        return handle


class LocalRoute(KeyedRoute):
    """A keyed route that a tunnel does not lead to: what tells of the server rather than answers."""

    def get_route_handler(self) -> Handler:
        """The handler, behind the key check and closed to the tunnel's names."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            state_of(request).key_check(request)
            check_local(request)
            return await handler(request)

        return handle


class LocalPageRoute(PublicRoute):
    """A route without a key that a tunnel does not lead to: what a browser opens, and tells nothing of the server."""

    def get_route_handler(self) -> Handler:
        """The handler, closed to the tunnel's names."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            check_local(request)
            return await handler(request)

        return handle


async def read_body(request: Request, model: type[Body]) -> Body:
    """The JSON body of a request as a model, for what FastAPI does not read itself.

    Raises:
        InvalidRequestError: it is not valid; names the field.
    """
    try:
        return model.model_validate(await request.json())
    except ValidationError as exc:
        raise from_validation([{**error, "loc": ("body", *error["loc"])} for error in exc.errors()]) from exc


async def _key_in_body(request: StrictRequest) -> str | None:
    """The key that a JSON body holds; None where it holds none, or is none."""
    try:
        body = await request.json()
    except RequestError:
        return None  # strangers are told of no other mistake than the missing key
    key = body.get("apikey") if isinstance(body, dict) else None
    return key if isinstance(key, str) and key else None


def check_local(request: Request) -> None:
    """Raise `ForbiddenError` for a request that came by one of the tunnel's names."""
    if host_name(request.scope) in state_of(request).public_hosts:
        raise ForbiddenError(f"{request.url.path} is answered on the server's own machine only.")


def host_name(scope: Scope) -> str:
    """The host name a request was sent to, without port, in lower case."""
    for name, value in scope["headers"]:
        if name == b"host":
            host: str = value.decode("latin-1").lower()
            return host.rsplit(":", 1)[0] if host.rpartition(":")[2].isdigit() else host
    return ""


def parse_json(body: bytes, max_depth: int) -> Any:
    """Parse JSON from a stranger.

    Raises:
        InvalidRequestError: see `StrictRequest.json`.
    """
    if not body.strip():
        raise InvalidRequestError("The body is empty; send a JSON object.")
    depth = _depth(body)
    if depth > max_depth:
        raise InvalidRequestError(f"The JSON is nested {depth} levels deep; at most {max_depth} are allowed.")
    try:
        value = json.loads(body, parse_constant=_refuse_constant, parse_int=_parse_int)
        if b"\\u" in body:  # half of a surrogate pair is not text and could not be sent back
            json.dumps(value, ensure_ascii=False).encode()
    except (json.JSONDecodeError, UnicodeError) as exc:
        raise InvalidRequestError(f"The body is not valid JSON: {exc}.") from exc
    return value


def _depth(body: bytes) -> int:
    """How deep brackets nest at most, strings left out; runs before the recursive parser sees the text."""
    depth = deepest = 0
    for bracket in re.findall(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', body, re.DOTALL):
        if bracket in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
        elif bracket in (b"]", b"}"):
            depth -= 1
    return deepest


def _refuse_constant(name: str) -> None:
    raise InvalidRequestError(f"The JSON has {name}, which is not a JSON number.")


def _parse_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise InvalidRequestError(f"The JSON has a number of {len(digits)} digits; at most {MAX_DIGITS} are allowed.")
    return int(digits)
