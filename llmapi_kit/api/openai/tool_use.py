"""Which tools an answer may call, whichever API it is asked through: the checks, and what the engine takes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmapi_kit.api.openai.strict_schema import check_strict_schema
from llmapi_kit.engines.base import ToolUse
from llmapi_kit.errors import InvalidRequestError

MAX_TOOLS = 128
FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class OfferedFunction:
    """A function that the model may call, and where it stands in the request.

    Attributes:
        definition: as chat templates expect it: ``name``, ``description``, ``parameters`` and ``strict``.
        name_param: the request's field with its name.
        schema_param: the one with its JSON schema.
    """

    definition: Mapping[str, Any]
    name_param: str
    schema_param: str

    @property
    def name(self) -> str:
        """What the model calls it by."""
        return str(self.definition["name"])


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether and what the model has to call.

    Attributes:
        mode: ``none``: nothing; ``auto``: as it likes; ``required``: something.
        forced: the one function it has to call; empty for its own choice.
        param: the request's field that says so.
    """

    mode: Literal["none", "auto", "required"] = "auto"
    forced: str = ""
    param: str = "tool_choice"


def tool_use(functions: Sequence[OfferedFunction], choice: ToolChoice, *, is_parallel: bool) -> ToolUse | None:
    """What the engine is asked; None where nothing may be called."""
    if not functions or choice.mode == "none":
        return None
    return ToolUse(
        [{"type": "function", "function": dict(function.definition)} for function in functions],
        is_required=choice.mode == "required" and not choice.forced,
        forced=choice.forced,
        is_parallel=is_parallel,
    )


def check_tools(functions: Sequence[OfferedFunction], choice: ToolChoice) -> None:
    """Raise for names that can't be, schemas that are not strict but should be, and a choice of what is not there.

    Raises:
        InvalidRequestError: it names the field.
    """
    names: set[str] = set()
    for function in functions:
        param, name = function.name_param, function.name
        if not FUNCTION_NAME.fullmatch(name):
            raise InvalidRequestError(
                f"{param} is {name[:80]!r}; a name has 1 to 64 letters, digits, _ or -.", param=param
            )
        if name in names:
            raise InvalidRequestError(f"{param} is {name!r}, which an earlier tool has too.", param=param)
        names.add(name)
        schema = function.definition.get("parameters")
        if function.definition.get("strict") and schema is not None:
            check_strict_schema(schema, function.schema_param)
    if choice.mode in ("none", "auto") and not choice.forced:
        return
    if not names:
        raise InvalidRequestError(f"{choice.param} needs tools to choose from.", param=choice.param)
    if choice.forced and choice.forced not in names:
        raise InvalidRequestError(
            f"{choice.param} names {choice.forced[:80]!r}; the tools are {', '.join(sorted(names))}.",
            param=choice.param,
        )
