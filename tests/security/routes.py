"""Every route there is or will be, looked up in the application, and what calls each of them."""

from __future__ import annotations

import json

from llmapi_kit.api.routes import KeyedRoute, TokenRoute
from tests.api.conftest import all_routes, path_of

__all__ = ["path_of"]


def name_of(value):
    """How a test's id says which route it is about."""
    return value if isinstance(value, str) else getattr(value, "path", str(value))


ROUTES = all_routes()
CLOSED = [each for each in ROUTES if isinstance(each[1], KeyedRoute | TokenRoute)]
WITH_BODY = [route for _, route in ROUTES if getattr(route, "body_field", None) is not None]


def body_model(route):
    """The pydantic model of a route's body."""
    return route.body_field.field_info.annotation


def is_refused(response):
    """Whether the request itself was at fault; sessions say so by a code of their own, with status 200."""
    if 400 <= response.status_code < 500:
        return True
    return response.status_code == 200 and b'"code":' in response.content and json.loads(response.content)["code"] == -3
