"""Pure ASGI middleware around every request: what holds for all of them, before a route is looked for.

An id on each response; a check of the Host header; a path with a slash at its end, which means the same without; HEAD,
which is answered as GET without the body; and a failed request whose answer was sent leaves the connection as it is.

Pure ASGI, because Starlette's BaseHTTPMiddleware hides that a client left.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmapi_kit.api.errors import error_response
from llmapi_kit.api.limiter import Headers
from llmapi_kit.api.request_record import RequestRecord, current_request
from llmapi_kit.api.routes import host_name
from llmapi_kit.api.state import ApiState
from llmapi_kit.errors import ForbiddenError, InvalidRequestError, RequestError
from llmapi_kit.ids import random_hex

logger = logging.getLogger(__name__)

CLIENT_LEFT = 499  # nginx's number for a client that left before the answer
END = {"type": "http.response.body", "body": b"", "more_body": False}


class RequestContext:
    """Gives each request an id and refuses calls under a foreign name (DNS rebinding).

    Args:
        app: the application.
        state: whose `hosts` are allowed; looked up at each request, as a tunnel's name comes later.
    """

    def __init__(self, app: ASGIApp, state: ApiState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record, started_at = RequestRecord(f"req_{random_hex(24)}", scope["method"], scope["path"]), time.monotonic()
        answer = _Answer(send, lambda: self._headers(record), is_head=scope["method"] == "HEAD")
        current_request.set(record)
        try:
            await self._answer(scope, receive, answer, record)
        finally:
            if self._state.request_log is not None:
                self._state.request_log.add(record, answer.status, time.monotonic() - started_at)

    def _headers(self, record: RequestRecord) -> Headers:
        """What every answer says: its id, and the limits of the key that it is for."""
        limits = [] if record.caller is None else self._state.limiter.headers(record.caller)
        return [(b"x-request-id", record.id.encode()), *limits]

    async def _answer(self, scope: Scope, receive: Receive, answer: _Answer, record: RequestRecord) -> None:
        error = self._find_error(scope)
        if error is not None:
            await error_response(error)(scope, receive, answer.send)
            return
        try:
            await self._app(_as_routed(scope), receive, answer.send)
        except Exception:
            if not answer.is_complete:
                raise
            # The server would close the connection, which the client has been told to use again
            logger.exception("The request %s failed", record.id)

    def _find_error(self, scope: Scope) -> RequestError | None:
        """Why the name it was sent to does not allow it."""
        if sum(name == b"host" for name, _ in scope["headers"]) > 1:
            return InvalidRequestError("The request has more than one Host header.")
        hosts = self._state.hosts
        if hosts and (host := host_name(scope)) not in hosts:
            return ForbiddenError(f"This server is not known as {host[:200]!r}.", code="host_not_allowed")
        return None


class _Answer:
    """The response as it is sent.

    Args:
        send: of the connection.
        headers: tells what to add to its own, when it begins.
        is_head: whether the client wants the headers only.
    """

    def __init__(self, send: Send, headers: Callable[[], Headers], *, is_head: bool) -> None:
        self.is_complete = False
        self.status = CLIENT_LEFT
        self._send = send
        self._headers = headers
        self._is_head = is_head

    async def send(self, message: Message) -> None:
        """Send a part of it; what comes after the end of an answer to HEAD is dropped."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self._headers()]
            await self._send(message)
            message = END
            if not self._is_head:
                return
        if not self.is_complete:
            # Known before it is sent, as a client that has it all may ask the next thing
            self.is_complete = not message.get("more_body", False)
            await self._send(message)


def _as_routed(scope: Scope) -> Scope:
    """The request with the path and the method that a route knows it by."""
    path: str = scope["path"]
    # A slash that is written as %2F belongs to a name
    has_slash = path.endswith("/") and scope.get("raw_path", b"/").endswith(b"/")
    changes = {
        "path": path[:-1] if has_slash and len(path) > 1 and path[-2] != "/" else path,
        "method": "GET" if scope["method"] == "HEAD" else scope["method"],
    }
    return {**scope, **changes}
