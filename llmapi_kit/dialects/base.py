"""What the room works with: functions a model may call, pieces of a parsed reply, and the form of a call.

Knows nothing of tokens, HTTP or threads. A parser belongs to one answer and to whoever reads that answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llmapi_kit.errors import InvalidRequestError
from llmapi_kit.types import ToolCallDelta

Json = Mapping[str, Any]
NAME = re.compile(r"[\w.:/-]{1,256}")  # what every format can carry


@dataclass(frozen=True, slots=True)
class Piece:
    """What is certain of a reply since the last piece; empty where everything new is held back."""

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()


class ReplyParser(Protocol):
    """Takes one answer's text apart as it comes. Any split of the text gives the same in total."""

    @property
    def num_calls(self) -> int:
        """Calls begun so far."""
        ...

    def feed(self, text: str) -> Piece:
        """What is certain now. Held back is only what may be the start of a marker, and whitespace before it."""
        ...

    def flush(self) -> Piece:
        """The rest, at the answer's end: half a marker is text again, an unfinished call stays as far as it came."""
        ...


@dataclass(frozen=True, slots=True)
class Function:
    """A function that a request offers to the model.

    Attributes:
        name: what a call names.
        parameters: JSON schema of the arguments object.
        is_strict: the request wants every call of it to follow the schema.
        param: where the schema stands in the request, for errors.
    """

    name: str
    parameters: Json
    is_strict: bool = False
    param: str = "tools"


def functions_of(tools: Sequence[Json]) -> tuple[Function, ...]:
    """The functions of OpenAI's ``tools``, in their order; without ``parameters`` a function takes none.

    Raises:
        InvalidRequestError: a tool has no name, one that not every format can carry or that another tool has; or its
            schema is not an object.
    """
    functions: dict[str, Function] = {}
    for index, tool in enumerate(tools):
        where = f"tools.{index}.function"
        spec = tool.get("function", tool)
        name = spec.get("name") if isinstance(spec, Mapping) else None
        if not isinstance(name, str) or not name:
            raise InvalidRequestError(f"{where}.name is missing; every tool needs one.", param=f"{where}.name")
        if not NAME.fullmatch(name):
            raise InvalidRequestError(
                f"{where}.name is {name[:80]!r}; up to 256 letters, digits, _, -, ., : and / are allowed.",
                param=f"{where}.name",
            )
        if name in functions:
            raise InvalidRequestError(f"Two tools are called {name}; names must differ.", param=f"{where}.name")
        parameters = spec.get("parameters")
        if parameters is None:
            parameters = {"type": "object", "properties": {}}
        if not isinstance(parameters, Mapping):
            raise InvalidRequestError(
                f"{where}.parameters is not an object; it must be a JSON schema.", param=f"{where}.parameters"
            )
        functions[name] = Function(name, parameters, bool(spec.get("strict")), f"{where}.parameters")
    return tuple(functions.values())


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The texts that open and close reasoning, such as ``<think>`` and ``</think>``."""

    opening: str
    closing: str
