"""Every route there is or will be, looked up in the application, and what calls each of them."""

from __future__ import annotations

import json
import re

from llmapi_kit.api.app import create_app
from llmapi_kit.api.auth import KeyCheck
from llmapi_kit.api.state import ApiState
from llmapi_kit.config import load_settings
from llmapi_kit.engines.catalog import Catalog
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.store.store import open_store

from .conftest import KEY


def all_routes():
    """Every route, once for each of its methods; what is mounted below another path comes with that path."""
    settings = load_settings(database_url="sqlite://")
    store = open_store(settings)
    app = create_app(ApiState(Catalog([MockEngine()]), KeyCheck(KEY), settings, store))
    store.close()
    while not hasattr(app, "routes"):  # the middleware around it
        app = app._app
    return [(method, route) for route in app.routes for method in sorted(getattr(route, "methods", None) or ["GET"])]


def path_of(route):
    """An address that leads to a route."""
    return re.sub(r"\{[^}]*\}", "mock", route.path)


def name_of(value):
    """How a test's id says which route it is about."""
    return value if isinstance(value, str) else getattr(value, "path", str(value))


ROUTES = all_routes()
WITH_BODY = [route for _, route in ROUTES if getattr(route, "body_field", None) is not None]


def body_model(route):
    """The pydantic model of a route's body."""
    return route.body_field.field_info.annotation


def is_refused(response):
    """Whether the request itself was at fault; sessions say so by a code of their own, with status 200."""
    if 400 <= response.status_code < 500:
        return True
    return response.status_code == 200 and b'"code":' in response.content and json.loads(response.content)["code"] == -3
