"""Streaming to browsers: GET /chat-sse for an EventSource, which can send neither a header nor a body.

It is opened by a short-lived token, which POST /chat-sse/token gives to those who have the key; the key itself never
stands in an address. An EventSource connects again by itself when a stream ends, so every answer says when it is
complete, and a second call for the same one is told to stop.

Source: WHATWG HTML, section "Server-sent events"; 204 stops an EventSource, "Last-Event-ID" is what it connects again
with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmapi_kit.api.errors import error_body
from llmapi_kit.api.openai.generation import StreamFormat, frame, start
from llmapi_kit.api.openapi import Sent, answers, streams
from llmapi_kit.api.routes import KeyedRoute, TokenRoute
from llmapi_kit.api.sse import EventStream, while_connected
from llmapi_kit.api.state import ApiState, state_of
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.errors import BodyTooLargeError, ContextLengthError, InvalidRequestError, RequestError
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Delta

NAMES = ("prompt", "token", "model", "system", "max_tokens", "temperature", "stream")
NOT_STORED = {"Cache-Control": "no-store"}

router = APIRouter()
keyed = APIRouter(route_class=KeyedRoute, tags=["EventSource"])
tokened = APIRouter(route_class=TokenRoute, tags=["EventSource"])


class EventToken(Sent):
    """A token for GET /chat-sse."""

    token: str
    expires_in: int = Field(description="Seconds.")


class MessagePiece(Sent):
    """A piece of an answer, or the whole of it."""

    text: str
    message_id: str = Field(description="Names the answer.", json_schema_extra={"pattern": "^[0-9a-f]+$"})


@keyed.post(
    "/chat-sse/token",
    summary="A token for GET /chat-sse",
    response_model=None,
    responses=answers(EventToken),
)
async def create_event_token(request: Request) -> Response:
    """A token that opens GET /chat-sse and nothing else, for a while: for a page that is not to have the key."""
    state = state_of(request)
    lifetime_s = state.settings.event_token_s
    token = {"token": state.key_check.new_token(lifetime_s), "expires_in": lifetime_s}
    return JSONResponse(token, headers=NOT_STORED)


@tokened.get(
    "/chat-sse",
    summary="Answer a prompt to an EventSource",
    response_model=None,
    responses={
        200: {**streams(MessagePiece)[200], "model": MessagePiece},
        204: {"description": "To an EventSource that connects again: stop."},
    },
)
async def chat_sse(
    request: Request,
    prompt: Annotated[str, Query()],
    model: Annotated[str, Query(description="A name from /v1/models; left out, the server's default.")] = "",
    system: Annotated[str, Query(description="What the answer should be like.")] = "",
    max_tokens: Annotated[int | None, Query(description="At most this many new tokens.", ge=1)] = None,
    temperature: Annotated[float | None, Query(description="0 is greedy.", ge=0, le=2)] = None,
    stream: Annotated[bool, Query(description="False: the whole answer at once, as JSON.")] = True,
    last_event_id: Annotated[
        str, Header(alias="Last-Event-ID", description="An EventSource that connects again sends it.")
    ] = "",
) -> Response:
    """Answer a prompt as server-sent events, of which one named `end` is the last.

    An answer that fails has an event named `failed` before that, with what is otherwise the body of an error.
    """
    state = state_of(request)
    _check_query(state, request)
    if last_event_id:
        return Response(status_code=204)
    engine = await state.catalog.find(model or None)
    values: dict[str, Any] = {**engine.info.defaults, "max_tokens": max_tokens}
    if temperature is not None:
        values["temperature"] = temperature
    messages = [{"role": "system", "content": system}] if system else []
    ask = GenerationRequest(
        messages=[*messages, {"role": "user", "content": prompt}],
        sampling=SamplingParams(**values),
        cache_salt=state.key_check.key_id,
    )
    try:
        generation = await start(state, engine, [ask], "")
    except ContextLengthError as exc:
        raise ContextLengthError(exc.message, param="prompt") from exc
    if stream:
        frames = generation.stream(EventSourceFormat(generation.id), include_usage=False)
        return EventStream(frames, state.settings, on_end=generation.close)
    (answer,) = await while_connected(request.receive, generation.collect(), on_end=generation.close)
    return JSONResponse({"text": answer.text, "message_id": generation.id}, headers=NOT_STORED)


router.routes.extend([*keyed.routes, *tokened.routes])


class EventSourceFormat(StreamFormat):
    """Events of an answer.

    Args:
        message_id: names it; an EventSource that has seen it connects again with it.
    """

    def __init__(self, message_id: str) -> None:
        self._message_id = message_id

    def delta(self, delta: Delta) -> bytes | None:
        """A piece of text."""
        return self._event(delta.text) if delta.text else None

    def failed(self, error: RequestError) -> bytes:
        """Why it failed, under a name that is not the EventSource's own `error`; and the end."""
        return b"event: failed\n" + frame(error_body(error)) + self.end()

    def end(self) -> bytes:
        """The end; with data, as an event without any is not given to the page."""
        return b"event: end\n" + self._event("")

    def _event(self, text: str) -> bytes:
        return f"id: {self._message_id}\n".encode() + frame({"text": text, "message_id": self._message_id})


def _check_query(state: ApiState, request: Request) -> None:
    """Raise for what would be ignored, and for more than a body may have."""
    size, limit = len(request.scope["query_string"]), state.settings.max_body_bytes
    if size > limit:
        raise BodyTooLargeError(f"The query is larger than {limit:,} bytes, the most this server takes.")
    seen: Sequence[str] = [name for name, _ in request.query_params.multi_items()]
    for name in seen:
        if name not in NAMES:
            raise InvalidRequestError(
                f"The query has {name[:80]!r}, which is not known here; there are {', '.join(NAMES)}.", param=name[:80]
            )
        if seen.count(name) > 1:
            raise InvalidRequestError(f"The query has {name} more than once.", param=name)
