"""Builds grammars in llguidance's Lark dialect, rule by rule.

Knows nothing of formats, and does not import llguidance. In its grammars a text literal never matches an added token,
even one whose text is the same, so markers that are added tokens are named by their ids.

Source: llguidance, docs/syntax.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from llmapi_kit.dialects.base import Function, Json
from llmapi_kit.errors import InvalidRequestError
from llmapi_kit.sampling.constraints import Constraint
from llmapi_kit.sampling.grammar_source import JSON_OPTIONS, check_schema, lark_text

# As chat templates write JSON, so models are not led off what they were trained on.
JSON_STYLE = {
    "json_allowed_escapes": JSON_OPTIONS["json_allowed_escapes"],
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
ANY_TEXT = "/(?s:.*)/"
COMBINING = ("allOf", "anyOf", "oneOf", "not", "if", "$ref", "patternProperties", "unevaluatedProperties")


class Grammar:
    """Rules under construction.

    Args:
        added_tokens: texts that the vocabulary holds as one added token each, with their ids.
        has_json_beside: a call that is a bare JSON object stands beside an answer that may be one. llguidance's lexer
            takes the longest match and never goes back, so both are cut into the same parts.
    """

    def __init__(self, added_tokens: Mapping[str, int], *, has_json_beside: bool = False) -> None:
        self._ids = added_tokens
        self.has_json_beside = has_json_beside
        self._rules: dict[str, str] = {}

    def rule(self, expression: str, *, is_lazy: bool = False) -> str:
        """The name of a rule for an expression; a lazy one ends with the first match of its regular expression."""
        return self._define("r", "[lazy]" if is_lazy else "", expression)

    def terminal(self, expression: str) -> str:
        """The name of a terminal, which is one regular expression."""
        return self._define("T", "", expression)

    def choice(self, expressions: Iterable[str]) -> str:
        """An expression for one of several."""
        return self.rule(" | ".join(dict.fromkeys(expressions)))

    def json(self, schema: Json) -> str:
        """An expression for JSON that follows the schema."""
        style = JSON_OPTIONS if self.has_json_beside else JSON_STYLE
        return self.rule(f"%json {json.dumps({**schema, 'x-guidance': style})}")

    def nested(self, constraint: Constraint) -> str:
        """An expression for what another constraint allows; its rules keep their names to themselves."""
        return self.rule(f"%lark {{\n{lark_text(constraint)}\n}}")

    def marker(self, text: str) -> str:
        """An expression for a marker: its own token where it has one, else its text."""
        return f"<[{self._ids[text]}]>" if text in self._ids else quoted(text)

    def up_to(self, marker: str, *, but_not: str = "") -> str:
        """An expression for any text up to and with the first of a marker, as one token or spelled in others.

        Args:
            marker: the text.
            but_not: a regular expression of texts which are not allowed before the marker.
        """
        spelled = self.rule(f"{self.terminal(f'/(?s:.*){regex_of(marker)}/{_minus(but_not)}')}", is_lazy=True)
        if marker not in self._ids:
            return spelled
        return self.choice((f"{self.text(but_not=but_not)} {self.marker(marker)}", spelled))

    def text(self, *, but_not: str = "") -> str:
        """An expression for any text, added tokens excepted."""
        return self.terminal(ANY_TEXT + _minus(but_not))

    def source(self, start: str) -> str:
        """The grammar, with what it starts with."""
        return "\n".join((f"start: {start}", *self._rules.values(), ""))

    def _define(self, letter: str, options: str, expression: str) -> str:
        key = f"{letter}{options}: {expression}"
        if key not in self._rules:
            self._rules[key] = f"{letter}_{len(self._rules)}{options}: {expression}"
        return self._rules[key].split(":", 1)[0].removesuffix(options)


def _minus(regex: str) -> str:
    return f" & ~/{regex}/" if regex else ""


def quoted(text: str) -> str:
    """A text as a literal."""
    return json.dumps(text, ensure_ascii=False)


def regex_of(text: str) -> str:
    """A regular expression, for between slashes, that matches a text."""
    return "".join(f"\\{char}" if char in r"\.+*?()|[]{}^$/#&-~" else char for char in text)


def arguments_schema(function: Function) -> dict[str, Any]:
    """The schema of a call's arguments: an object, and of declared properties only, unless it says otherwise.

    Raises:
        InvalidRequestError: it is not an object's, or has what can't be kept.
    """
    schema = {"type": "object", **function.parameters}
    if "x-guidance" in schema:
        raise InvalidRequestError(f"{function.param} has x-guidance, which is not supported.", param=function.param)
    check_schema(schema, function.param)
    if schema["type"] != "object":
        raise InvalidRequestError(
            f"{function.param}.type is {schema['type']!r}; arguments are always an object.",
            param=f"{function.param}.type",
        )
    if "properties" in schema and not any(keyword in schema for keyword in COMBINING):
        schema.setdefault("additionalProperties", False)
    return schema


def call_object(grammar: Grammar, function: Function, key: str) -> str:
    """An expression for a call as a JSON object, name first."""
    if grammar.has_json_beside:
        return grammar.json(_call_schema(function, key))
    before = f'{{"name": {json.dumps(function.name, ensure_ascii=False)}, "{key}": '
    return grammar.rule(f'{quoted(before)} {grammar.json(arguments_schema(function))} "}}"')


def _call_schema(function: Function, key: str) -> dict[str, Any]:
    """The schema of a call as a JSON object. Definitions move to the top, where references look for them."""
    arguments = arguments_schema(function)
    definitions: dict[str, Any] = {name: arguments.pop(name) for name in ("$defs", "definitions") if name in arguments}
    return {
        "type": "object",
        "properties": {"name": {"const": function.name}, key: arguments},
        "required": ["name", key],
        "additionalProperties": False,
        **definitions,
    }
