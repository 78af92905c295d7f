"""Other ways of speaking at a path that has a route: an older API at the address of a newer one."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


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
