"""CORS: pages of the websites that the settings name may call this server from a browser.

The key, or a token made with it, is asked for as from everybody; cookies are not used. To pages of other origins
nothing is said, and their browsers keep what they get from them.

Source: WHATWG Fetch, "CORS protocol".
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from llmapi_kit.api.auth import KEY_HEADERS

METHODS = ("GET", "HEAD", "POST", "DELETE")
# The last one skips the page that free ngrok tunnels show to browsers
HEADERS = ("Authorization", *KEY_HEADERS, "Content-Type", "ngrok-skip-browser-warning")
READABLE = (
    *("x-request-id", "Retry-After"),
    *(f"x-ratelimit-{name}-{unit}" for unit in ("requests", "tokens") for name in ("limit", "remaining", "reset")),
)


class CorsMiddleware:
    """Starlette's middleware, for requests from these origins only: it tells others what is allowed, too.

    Args:
        app: the application.
        origins: as browsers write them.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._origins = frozenset(origins)
        self._shared = CORSMiddleware(
            app, allow_origins=origins, allow_methods=METHODS, allow_headers=HEADERS, expose_headers=READABLE
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        is_shared = scope["type"] == "http" and Headers(scope=scope).get("origin") in self._origins
        await (self._shared if is_shared else self._app)(scope, receive, send)
