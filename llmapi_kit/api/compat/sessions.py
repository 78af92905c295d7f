"""The session API: POST /v1/chat/start, /v1/chat/ask and /v1/chat/end.

A server keeps the conversation; clients send one prompt at a time. Every answer is HTTP 200 with a code of its own,
but a key that is missing or wrong is a 401. What sessions do is in `llmapi_kit.sessions`.

Source: the llmapi project's server and clients; names and order of fields, codes and their words are theirs.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, cast

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response

from llmapi_kit.api.compat.session_dispatch import ServerDispatch
from llmapi_kit.api.compat.session_schemas import (
    DEFAULT_TIMEOUT_S,
    AskBody,
    EndBody,
    KeyRefused,
    SessionBody,
    SessionEnded,
    SessionFailure,
    SessionReply,
    SessionReplyPiece,
    SessionStarted,
    StartBody,
)
from llmapi_kit.api.errors import error_body, error_response, from_validation
from llmapi_kit.api.openapi import answers, examples
from llmapi_kit.api.routes import BodyKeyedRoute
from llmapi_kit.api.sse import DONE, EventStream, while_connected
from llmapi_kit.api.state import ApiState, state_of
from llmapi_kit.api.variants import Handler
from llmapi_kit.errors import (
    AuthenticationError,
    BodyTooLargeError,
    BotTypeError,
    InvalidRequestError,
    LlmApiKitError,
    RequestError,
    RequestTimeoutError,
    SessionGoneError,
    StoreError,
    UnsupportedMediaTypeError,
)
from llmapi_kit.sessions.bots import Bots
from llmapi_kit.sessions.conversation import Conversations, Reply

logger = logging.getLogger(__name__)

SUCCESS = {"code": 0, "msg": "Success"}
INTERNAL, FAILED, PARAMETERS, SESSION, BOT_TYPE, TIMEOUT = -1, -2, -3, -4, -5, -6
WORDS = {
    INTERNAL: "Internal error",
    FAILED: "Failed",
    PARAMETERS: "Request params not valid",
    SESSION: "Session invalid",
    BOT_TYPE: "Bot type invalid",
    TIMEOUT: "Reply timeout",
}
# The first that fits
CODES: tuple[tuple[type[LlmApiKitError], int], ...] = (
    (StoreError, INTERNAL),
    (SessionGoneError, SESSION),
    (BotTypeError, BOT_TYPE),
    (RequestTimeoutError, TIMEOUT),
    (InvalidRequestError, PARAMETERS),
    (BodyTooLargeError, PARAMETERS),
    (UnsupportedMediaTypeError, PARAMETERS),
)


class SessionRoute(BodyKeyedRoute):
    """A route whose errors have this API's codes, and whose clients may leave out that they send JSON."""

    has_own_errors = True

    def get_route_handler(self) -> Handler:
        """The handler, which raises nothing."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(_as_json(request))
            except AuthenticationError as exc:
                refused = error_response(exc)
                refused.body = _json({**_failure(exc), **error_body(exc)})
                refused.headers["content-length"] = str(len(refused.body))
                return refused
            except Exception as exc:
                return _failed(exc)

        return handle


router = APIRouter(route_class=SessionRoute, tags=["sessions"])


def prepare(state: ApiState) -> None:
    """Read the bots that the settings name.

    Raises:
        ConfigError: one can't be as they say.
    """
    state.conversations = Conversations(state.catalog, state.store.sessions, Bots(state.settings.bots))


KEY_REFUSED: dict[int | str, dict[str, Any]] = {401: {"model": KeyRefused, "description": KeyRefused.__doc__}}


@router.post(
    "/v1/chat/start",
    summary="Start a session",
    response_model=None,
    responses=answers(SessionStarted, failure=SessionFailure) | KEY_REFUSED,
    openapi_extra=examples(
        A_trial={"bot_type": "mock"},
        A_conversation={"bot_type": "chatgpt", "settings": {"system": "Be brief.", "temperature": 0}},
    ),
)
async def start_session(body: StartBody, request: Request) -> Response:
    """Start a session with a bot."""
    state, conversations = _ready(request, body)
    session = await conversations.start(state.key_check.key_id, body.bot_type, body.settings or {})
    return _answer({**SUCCESS, "session": session.id})


@router.post(
    "/v1/chat/ask",
    summary="Ask in a session",
    response_model=None,
    responses=answers(SessionReply, event=SessionReplyPiece, failure=SessionFailure) | KEY_REFUSED,
    openapi_extra=examples(A_question={"session": "0123456789abcdef0123456789abcdef", "content": "hello"}),
)
async def ask_in_session(body: AskBody, request: Request) -> Response:
    """Say something to a session's bot and get its reply. Of several asks in a session one waits for the other."""
    state, conversations = _ready(request, body)
    session = await conversations.find(state.key_check.key_id, body.session)
    timeout_s = DEFAULT_TIMEOUT_S if body.timeout is None else body.timeout
    pieces = conversations.ask(session, body.content, timeout_s, ServerDispatch(state))
    if body.stream:
        frames = _frames(pieces, session.id)
        return EventStream(frames, state.settings, on_end=pieces.aclose)
    reply = await while_connected(request.receive, _whole(pieces), on_end=pieces.aclose)
    return _answer(_reply(reply))


@router.post(
    "/v1/chat/end",
    summary="End a session",
    response_model=None,
    responses=answers(SessionEnded, failure=SessionFailure) | KEY_REFUSED,
    openapi_extra=examples(A_session={"session": "0123456789abcdef0123456789abcdef"}),
)
async def end_session(body: EndBody, request: Request) -> Response:
    """End a session and forget what was said in it."""
    state, conversations = _ready(request, body)
    await conversations.end(state.key_check.key_id, body.session)
    return _answer(SUCCESS)


def _ready(request: Request, body: SessionBody) -> tuple[ApiState, Conversations]:
    body.refuse_unsupported()
    state = state_of(request)
    state.check_open()
    return state, cast(Conversations, state.conversations)


async def _whole(pieces: AsyncGenerator[str | Reply, None]) -> Reply:
    async with aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, Reply):
                return piece
    raise RuntimeError("the bot ended without a reply")


async def _frames(pieces: AsyncGenerator[str | Reply, None], session_id: str) -> AsyncGenerator[bytes, None]:
    """Pieces, then the whole reply and ``[DONE]``, or what went wrong."""
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, Reply):
                    yield _frame(_reply(piece))
                    yield DONE
                else:
                    yield _frame({**SUCCESS, "session": session_id, "delta": piece})
    except Exception as exc:
        yield _frame(_failure(exc))


def _reply(reply: Reply) -> dict[str, Any]:
    return {**SUCCESS, "reply": reply.text, "timestamp": time.time()}


def _failed(error: Exception) -> Response:
    response = _answer(_failure(error))
    if isinstance(error, RequestError) and error.retry_after_s is not None:
        response.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    return response


def _failure(error: Exception) -> dict[str, Any]:
    """Code and message of an error; what is not meant for clients goes to the log only."""
    if isinstance(error, RequestValidationError):
        error = from_validation(error.errors())
    if not isinstance(error, LlmApiKitError):
        logger.error("A session failed: %r", error, exc_info=error)
        return {"code": INTERNAL, "msg": f"{WORDS[INTERNAL]}: the server's log has the details."}
    code = next((code for kind, code in CODES if isinstance(error, kind)), FAILED)
    if code == INTERNAL:
        logger.error("A session failed: %s", error)
        return {"code": code, "msg": f"{WORDS[code]}: the database does not answer; the server's log has the details."}
    return {"code": code, "msg": f"{WORDS[code]}: {error}"}


def _answer(body: Mapping[str, Any]) -> Response:
    return Response(_json(body), media_type="application/json")


def _frame(body: Mapping[str, Any]) -> bytes:
    return b"data: " + _json(body) + b"\n\n"


def _json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()


def _as_json(request: Request) -> Request:
    """A request that says nothing of what it brings says that it is JSON, unless a website's page sent it."""
    if "content-type" in request.headers or "origin" in request.headers:
        return request
    headers = [*request.scope["headers"], (b"content-type", b"application/json")]
    return Request({**request.scope, "headers": headers}, request.receive)
