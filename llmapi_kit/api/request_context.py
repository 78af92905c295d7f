"""Pure ASGI middleware around every request: an id on each response, and a check of the Host header.

Pure ASGI, because Starlette's BaseHTTPMiddleware hides that a client left.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmapi_kit.api.errors import error_response
from llmapi_kit.api.routes import host_name
from llmapi_kit.api.state import ApiState
from llmapi_kit.errors import ForbiddenError
from llmapi_kit.ids import random_hex

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")


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
        request_id = b"req_" + random_hex(24).encode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        hosts = self._state.hosts
        if hosts and (host := host_name(scope)) not in hosts:
            error = ForbiddenError(f"This server is not known as {host[:200]!r}.", code="host_not_allowed")
            await error_response(error)(scope, receive, send_with_id)
            return
        await self._app(scope, receive, send_with_id)
