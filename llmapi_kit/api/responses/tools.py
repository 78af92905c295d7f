"""Tools of a response: functions, alone or grouped in namespaces, and the choice among them.

The engine knows no namespaces: a function in one is offered under a name that has both.

Source: OpenAI API reference, "Responses": tools, tool_choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from llmapi_kit.api.openai.request_body import StrictModel
from llmapi_kit.api.openai.tool_use import OfferedFunction, ToolChoice
from llmapi_kit.errors import InvalidRequestError, UnsupportedFieldError


class FunctionTool(StrictModel):
    """A function the model may call, or a namespace of some."""

    type: str = Field(description="function or namespace.")
    name: str | None = Field(None, json_schema_extra={"pattern": "^[a-zA-Z0-9_-]{1,64}$"})
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="A JSON schema.")
    strict: bool | None = Field(None, description="Keep the arguments to the schema even where the call is free.")
    tools: list[FunctionTool] | None = Field(None, description="With type namespace: its functions.")


class ChosenTool(StrictModel):
    """A function the model has to call, or the ones it may."""

    type: str
    name: str | None = Field(None, description="With type function: which.")
    mode: Literal["auto", "required"] | None = Field(None, description="With type allowed_tools.")
    tools: list[ChosenTool] | None = Field(None, description="With type allowed_tools: functions, by name.")


Choice = Literal["none", "auto", "required"] | ChosenTool | None


def offered_name(namespace: str | None, name: str) -> str:
    """What the model calls a function by."""
    return f"{namespace}__{name}" if namespace else name


def namespaced_names(tools: Sequence[FunctionTool]) -> dict[str, tuple[str, str]]:
    """(namespace, name) of the functions in namespaces, by what the model calls them."""
    grouped = ((tool, inner) for _, tool, inner in _functions(tools) if tool is not inner)
    return {offered_name(tool.name, inner.name or ""): (tool.name or "", inner.name or "") for tool, inner in grouped}


def check_tool_types(tools: Sequence[FunctionTool], choice: Choice) -> None:
    """Raise for tools that are no functions, and for a choice of such.

    Raises:
        InvalidRequestError: it names the field.
    """
    for index, tool in enumerate(tools):
        if tool.type == "namespace" and tool.tools is None:
            raise InvalidRequestError(f"tools.{index} is a namespace without tools.", param=f"tools.{index}.tools")
        if tool.type != "namespace" and tool.tools is not None:
            raise InvalidRequestError(
                f"tools.{index} has tools, which only a namespace has.", param=f"tools.{index}.tools"
            )
    for path, tool, inner in _functions(tools):
        if inner.type != "function":
            raise UnsupportedFieldError(
                f"{path} is of type {inner.type[:40]!r}; this server runs no tools itself. Offer functions, of type "
                "function, and run them where you call it from.",
                param=f"{path}.type",
            )
        if inner.name is None or tool.name is None:
            raise InvalidRequestError(f"{path} has no name.", param=f"{path}.name")
    if isinstance(choice, ChosenTool):
        _check_choice(choice)


def allowed_functions(tools: Sequence[FunctionTool], choice: Choice) -> list[OfferedFunction]:
    """The functions that the model may call.

    Raises:
        InvalidRequestError: a function is allowed that is not there.
    """
    offered = [_offered(path, tool, inner) for path, tool, inner in _functions(tools)]
    if not isinstance(choice, ChosenTool) or choice.type != "allowed_tools":
        return offered
    names = {tool.name for tool in choice.tools or ()}
    if missing := names - {function.name for function in offered}:
        raise InvalidRequestError(
            f"tool_choice allows {sorted(missing, key=str)[0]!r}, which is none of the tools.", param="tool_choice"
        )
    return [function for function in offered if function.name in names]


def read_choice(choice: Choice) -> ToolChoice:
    """Whether and what the model has to call."""
    if not isinstance(choice, ChosenTool):
        return ToolChoice(choice or "auto")
    if choice.type == "allowed_tools":
        return ToolChoice(choice.mode or "auto")
    return ToolChoice("required", choice.name or "")


def _functions(tools: Sequence[FunctionTool]) -> Iterator[tuple[str, FunctionTool, FunctionTool]]:
    """(path, tool, function): the tool is the function itself, or the namespace that it is in."""
    for index, tool in enumerate(tools):
        if tool.type != "namespace":
            yield f"tools.{index}", tool, tool
        for number, inner in enumerate(tool.tools or () if tool.type == "namespace" else ()):
            yield f"tools.{index}.tools.{number}", tool, inner


def _offered(path: str, tool: FunctionTool, inner: FunctionTool) -> OfferedFunction:
    fields: Mapping[str, Any] = {
        "name": inner.name if tool is inner else offered_name(tool.name, inner.name or ""),
        "description": inner.description
        if tool is inner or not tool.description
        else f"{tool.description}\n\n{inner.description or ''}".strip(),
        "parameters": inner.parameters,
        "strict": inner.strict,
    }
    definition = {name: value for name, value in fields.items() if value is not None}
    return OfferedFunction(definition, f"{path}.name", f"{path}.parameters")


def _check_choice(choice: ChosenTool) -> None:
    chosen = (choice.tools or []) if choice.type == "allowed_tools" else [choice]
    for each in chosen:
        if each.type != "function" or each.name is None:
            raise UnsupportedFieldError(
                f"tool_choice is of type {each.type[:40]!r}; it can be none, auto, required, a function by name, or "
                "allowed_tools with functions by name.",
                param="tool_choice",
            )
    if choice.type == "allowed_tools" and (choice.mode is None or not chosen):
        raise InvalidRequestError("allowed_tools needs a mode, and tools.", param="tool_choice")
