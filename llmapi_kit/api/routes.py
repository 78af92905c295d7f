"""How every route begins: who may call it, and how its body is read.

A route is public, keyed, for the owner's key only, opened by a token, or for this machine only with a key, with the
owner's or without, by its class; `create_app` refuses any other. The key is checked by the route itself and not by the
path, before the body is read. Bodies are counted as they are received, and parsed strictly.

Source: per-route checks, because path prefixes can be got around (vLLM CVE-2026-48746).
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, ClassVar, TypeVar

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from llmapi_kit.api.auth import has_key_header
from llmapi_kit.api.errors import from_validation
from llmapi_kit.api.state import state_of
from llmapi_kit.api.strict_json import parse_json
from llmapi_kit.api.variants import Handler
from llmapi_kit.errors import (
    AuthenticationError,
    BodyTooLargeError,
    ForbiddenError,
    InvalidRequestError,
    RequestError,
    UnsupportedMediaTypeError,
)

Body = TypeVar("Body", bound=BaseModel)
JSON_KINDS = {
    list: "a JSON array",
    str: "a JSON string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
MAX_BYTES_WITHOUT_KEY = 256_000  # a longer body needs the key in a header
LONG_BODY_BYTES = 100_000  # more takes milliseconds to parse
KEY_IN_BODY = re.compile(rb'"apikey"\s*:\s*("(?:[^"\\]|\\.){1,1024}")', re.DOTALL)


class StrictRequest(Request):
    """A request whose body is limited and whose JSON is checked.

    It is taken for JSON whatever its Content-Type says, which many clients leave to a default that means something
    else. Unless the server asks for no key: there, it is the header that keeps the pages of foreign websites from
    posting, as browsers send no other than plain text and forms for them unasked.
    """

    def __init__(self, scope: Scope, receive: Receive, max_body_bytes: int | None = None) -> None:
        self._max_body_bytes = max_body_bytes
        content_type = Headers(scope=scope).get("content-type", "")
        self._media_type = content_type.partition(";")[0].strip().lower()
        headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
        super().__init__({**scope, "headers": [*headers, (b"content-type", b"application/json")]}, receive)

    async def body(self) -> bytes:
        """The whole body, counted as it comes in.

        Raises:
            BodyTooLargeError: it is over the limit; the rest is not read.
            UnsupportedMediaTypeError: it is compressed.
        """
        if not hasattr(self, "_body"):
            self._check_encoding()
            most = state_of(self).max_body_bytes
            limit = most if self._max_body_bytes is None else min(self._max_body_bytes, most)
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
            UnsupportedMediaTypeError: it is something else and says so, or the server needs to be told that it is JSON.
        """
        if not hasattr(self, "_json"):
            body = await self.body()
            # A worker lets go of the GIL now and then, the event loop never does
            is_long = len(body) > LONG_BODY_BYTES
            self._json = await asyncio.to_thread(self._parse, body) if is_long else self._parse(body)
        return self._json

    def _parse(self, body: bytes) -> Any:
        state = state_of(self)
        is_said = re.fullmatch(r"application/(json|[^/]+\+json)", self._media_type) is not None
        if state.key_check.is_open and body and not is_said:
            raise UnsupportedMediaTypeError(
                f"{self._content_type_in_words()}, and a server without a key takes JSON only that says what it is. "
                "Send 'Content-Type: application/json'."
            )
        try:
            return parse_json(body, state.settings.max_json_depth)
        except InvalidRequestError as exc:
            if is_said or not body or not self._media_type:
                raise
            raise UnsupportedMediaTypeError(
                f"{exc.message} {self._content_type_in_words()}: send a JSON object, with 'Content-Type: "
                "application/json'."
            ) from exc

    def _content_type_in_words(self) -> str:
        return f"Its Content-Type is {self._media_type[:80]!r}" if self._media_type else "It has no Content-Type"

    def _check_encoding(self) -> None:
        names = [name.strip().lower() for name in self.headers.get("content-encoding", "").split(",")]
        if set(names) - {"", "identity"}:
            raise UnsupportedMediaTypeError(
                f"The body has Content-Encoding {', '.join(names)[:80]!r}; this server takes bodies that are not "
                "compressed. Send it as it is, without Content-Encoding."
            )


class PublicRoute(APIRoute):
    """A route that anybody may call.

    Attributes:
        has_own_errors: whether it answers errors in a shape of its own, which it describes itself.
        max_body_bytes: the most that it reads; None for the server's limit.
    """

    has_own_errors: ClassVar[bool] = False
    max_body_bytes: ClassVar[int | None] = None

    def get_route_handler(self) -> Handler:
        """The handler, with a strict request."""
        return self._strict(super().get_route_handler())

    def _strict(self, handler: Handler) -> Handler:
        async def handle(request: Request) -> Response:
            strict = request
            if not isinstance(strict, StrictRequest):
                strict = StrictRequest(request.scope, request.receive, self.max_body_bytes)
            try:
                # Read here, not by FastAPI, which would turn every error into "error parsing the body"
                if self.body_field is not None:
                    body = _object(await strict.json())
                    for variant in state_of(strict).variants.get(self.path, ()):
                        if variant.accepts(body):
                            return await variant.answer(strict)
                return await handler(strict)
            except ClientDisconnect:
                return Response(status_code=499)  # nobody is there to read it

        return handle


class StrangersRoute(PublicRoute):
    """A route without a key that takes a body, which can't be long."""

    max_body_bytes = 4096


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
            state = state_of(request)
            check = state.key_check
            is_stranger = not (check.is_open or has_key_header(request.headers))
            # What is kept of a thousand of them at the same time is little
            most = min(MAX_BYTES_WITHOUT_KEY, state.settings.max_body_bytes) if is_stranger else None
            strict = StrictRequest(request.scope, request.receive, most)
            try:
                key = await _key_in_body(strict) if is_stranger else None
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


class OwnerRoute(KeyedRoute):
    """A keyed route for the key that the server was launched with only: what tells of everybody's requests."""

    def get_route_handler(self) -> Handler:
        """The handler, behind the key check and closed to teammates."""
        handler = PublicRoute.get_route_handler(self)

        async def handle(request: Request) -> Response:
            check = state_of(request).key_check
            check(request)
            if not check.caller.is_owner:
                raise ForbiddenError(
                    f"{request.url.path} is answered for the server's own key only; this one is {check.caller.name!r}.",
                    code="owner_only",
                )
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


class OwnerLocalRoute(LocalRoute, OwnerRoute):
    """A route for the server's own key only that a tunnel does not lead to: what changes the server."""


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
    """The key that a JSON body holds; None where it holds none, or is none.

    The body is not parsed for strangers, as that costs more than to send it: only when a key in it opens.
    """
    check = state_of(request).key_check
    try:
        found = KEY_IN_BODY.search(await request.body())
        if found is None:
            return None
        key = json.loads(found[1])
        check.check_key(key)
        body = await request.json()
    except AuthenticationError:
        raise
    except (RequestError, ValueError):
        return None  # strangers are told of no other mistake than the missing key
    key = body.get("apikey") if isinstance(body, dict) else None
    return key if isinstance(key, str) and key else None


def _object(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        kind = JSON_KINDS[type(body)]
        raise InvalidRequestError(f'The body is {kind}; send a JSON object, such as {{"model": …}}.')
    return body


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
