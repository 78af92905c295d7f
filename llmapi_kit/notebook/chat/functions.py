"""Functions that a model may call: their definitions, from their signatures, and calling them.

`call` runs on a session's loop and gives plain functions a thread of their own, so that Stop is heard meanwhile; a
function that is running can't be ended, only its result dropped.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError, create_model

from llmapi_kit.errors import ConfigError

MAX_RESULT = 20_000  # characters; more would push the conversation out of most models' context


class Function:
    """One function that a model may call.

    Args:
        function: plain or ``async``. Its docstring's first paragraph tells the model what it is for; its parameters
            and their types become the schema.

    Raises:
        ConfigError: it can't be described by a schema.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = getattr(function, "__name__", "")
        if not self.name.isidentifier():
            raise ConfigError(f"{function!r} has no name that a model could call. Pass a function made with def.")
        self._function = function
        self._arguments = _arguments_model(self.name, function)

    def definition(self) -> dict[str, Any]:
        """As OpenAI's API takes it in ``tools``."""
        schema = self._arguments.model_json_schema()
        _drop_titles(schema)
        text = (inspect.getdoc(self._function) or "").split("\n\n")[0].replace("\n", " ")
        return {"type": "function", "function": {"name": self.name, "description": text, "parameters": schema}}

    async def call(self, arguments: str) -> str:
        """Call it with arguments as JSON text; the result as text, JSON unless it is a text already.

        Raises:
            ValueError: the arguments do not fit; the message tells the model why.
            Exception: whatever the function raises.
        """
        try:
            given = self._arguments.model_validate_json(arguments or "{}")
        except ValidationError as exc:
            raise ValueError(_problems(exc)) from exc
        values = {name: getattr(given, name) for name in given.model_fields_set}
        if inspect.iscoroutinefunction(self._function):
            result = await self._function(**values)
        else:
            result = await asyncio.to_thread(self._function, **values)
        return _as_text(result)


def read_functions(functions: tuple[Callable[..., Any], ...]) -> dict[str, Function]:
    """Functions by name.

    Raises:
        ConfigError: two have the same name, or one can't be described.
    """
    found: dict[str, Function] = {}
    for each in functions:
        function = Function(each)
        if function.name in found:
            raise ConfigError(f"Two functions are called {function.name!r}. Give one another name.")
        found[function.name] = function
    return found


def _arguments_model(name: str, function: Callable[..., Any]) -> Any:
    """A pydantic model of a function's parameters."""
    try:
        hints = get_type_hints(function, include_extras=True)
        fields: dict[str, Any] = {}
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise ConfigError(f"{name} takes {parameter}; a model can only pass arguments by their names.")
            is_required = parameter.default is parameter.empty
            default = ... if is_required else parameter.default
            fields[parameter.name] = (hints.get(parameter.name, str if is_required else Any), default)
        model = create_model(name, **fields)
        TypeAdapter(model).json_schema()
    except ConfigError:
        raise
    except Exception as exc:
        raise ConfigError(f"{name} can't be described to a model: {exc}. Give its parameters plain types.") from exc
    return model


def _drop_titles(schema: Any) -> None:
    """Titles repeat the names; models were trained without them. A property may be called title, though."""
    if isinstance(schema, list):
        for each in schema:
            _drop_titles(each)
    if isinstance(schema, dict):
        if isinstance(schema.get("title"), str):
            del schema["title"]
        for each in schema.values():
            _drop_titles(each)


def _problems(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'arguments'}: {each['msg']}" for each in error.errors())


def _as_text(result: Any) -> str:
    try:
        text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(result)
    return text if len(text) <= MAX_RESULT else text[:MAX_RESULT] + " … (cut off)"
