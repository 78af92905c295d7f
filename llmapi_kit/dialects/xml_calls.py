"""Calls as ``<function=name><parameter=key>value</parameter></function>``: how they are read, and grammars for them.

Values are bare text; only the function's schema says of what type one is. While they are read, strings come out as
they come and other values when they are whole; a string ends at the first ``</parameter>``, which the format has no
way to write inside. A grammar refuses by name what the format can't guarantee: a pattern or format of a string, and
arguments that depend on each other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NoReturn

from llmapi_kit.dialects.base import Function, Json
from llmapi_kit.dialects.calls import Calls
from llmapi_kit.dialects.grammar import ANY_TEXT, COMBINING, Grammar, arguments_schema, quoted, regex_of
from llmapi_kit.dialects.json_calls import read_value
from llmapi_kit.dialects.schema_types import CONTAINERS, STRING, json_text, property_schema, resolved, types_of
from llmapi_kit.dialects.text_stream import (
    Steps,
    TextStream,
    is_next,
    peek,
    read_literal,
    read_name,
    read_until,
    skip_space,
)
from llmapi_kit.errors import InvalidRequestError

FUNCTION, FUNCTION_END = "<function=", "</function>"
PARAMETER, PARAMETER_END = "<parameter=", "</parameter>"

_NAME = re.compile(r"[^<>\n]*")


def read_function(calls: Calls, end_marker: str) -> Steps[bool]:
    """Read the rest of a function's block, of which ``<function=`` is read. Whether it was whole.

    Args:
        calls: where the call goes.
        end_marker: a text that also ends the block, its own closing tag being forgotten; it stays unread.
    """
    stream = calls.stream
    name = yield from _read_name(stream)
    if not name:
        return False
    calls.begin(name)
    function = calls.functions.get(name)
    separator = "{"
    while True:
        yield from skip_space(stream)
        if (yield from read_literal(stream, PARAMETER)):
            key = yield from _read_name(stream)
            if not key:
                return False
            calls.add(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
            separator = ", "
            if not (yield from _read_argument(calls, function, key)):
                return False
        elif (yield from read_literal(stream, FUNCTION_END)) or (yield from is_next(stream, end_marker)):
            calls.add("{}" if separator == "{" else "}")
            return True
        else:
            return False


def _read_name(stream: TextStream) -> Steps[str]:
    """A name up to its closing bracket; empty where that does not come, or the name is too long."""
    name = yield from read_name(stream, _NAME)
    return name.strip() if (yield from read_literal(stream, ">")) else ""


def _read_argument(calls: Calls, function: Function | None, key: str) -> Steps[bool]:
    """One argument's value, without the line break on either side. Whether it was whole."""
    stream = calls.stream
    if (yield from peek(stream)) == "\n":
        stream.take(1)
    types = STRING
    if function is not None:
        types = types_of(property_schema(function.parameters, key), function.parameters)
    if types == STRING:
        calls.add('"')
        out = _WithoutLastBreak(lambda part: calls.add(json.dumps(part, ensure_ascii=False)[1:-1]))
        is_whole = bool((yield from read_until(stream, (PARAMETER_END,), out.add)))
        calls.add('"' if is_whole else "")
        return is_whole
    parts: list[str] = []
    if "string" not in types and (yield from peek(stream)) in ("{", "["):
        yield from read_value(stream, parts.append, PARAMETER_END)  # its strings may hold the closing tag
    is_whole = bool((yield from read_until(stream, (PARAMETER_END,), parts.append)))
    text = "".join(parts).removesuffix("\n")
    calls.add(json_text(text, types) if is_whole else text)
    return is_whole


class _WithoutLastBreak:
    """Passes text on but for one line break at its end."""

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit
        self._held = ""

    def add(self, text: str) -> None:
        text = self._held + text
        self._held = "\n" if text.endswith("\n") else ""
        if len(text) > len(self._held):
            self._emit(text[: len(text) - len(self._held)])


VALUE_END = f"\n{PARAMETER_END}\n"
FREE_KEY = "/[A-Za-z0-9_.\\-]{1,64}/"
REFUSED = ("pattern", "format", "not", "if", "contentEncoding", "contentMediaType")

# Texts that the reader would take for a value of another type, where the schema allows some values of that type
_MISTAKABLE = {
    "boolean": "true|True|false|False",
    "number": r"[\-0-9](?s:.*)",
    "integer": r"[\-0-9](?s:.*)",
    "array": r"\[(?s:.*)",
    "object": r"\{(?s:.*)",
}


def function_block(grammar: Grammar, function: Function, *, after_opening: bool = False) -> str:
    """An expression for a call of the function; with `after_opening`, for what comes after ``<function=``.

    Raises:
        InvalidRequestError: the format can't guarantee what the function's schema asks for.
    """
    return _Block(grammar, function).expression("" if after_opening else FUNCTION)


class _Block:
    def __init__(self, grammar: Grammar, function: Function) -> None:
        self._grammar = grammar
        self._function = function
        self._root = arguments_schema(function)
        self._schema = arguments_schema(replace(function, parameters=resolved(self._root, self._root)))
        self._definitions: Json = {key: self._root[key] for key in ("$defs", "definitions") if key in self._root}

    def expression(self, opening: str) -> str:
        """The whole block, or what follows its opening."""
        name = self._function.name
        self._check_name(name)
        for keyword in (*COMBINING, "dependentRequired", "dependentSchemas", "minProperties", "maxProperties"):
            if keyword in self._schema:
                self._refuse(keyword)
        parts = [quoted(f"{opening}{name}>\n"), *self._parameters(), quoted(FUNCTION_END)]
        return self._grammar.rule(" ".join(parts))

    def _parameters(self) -> Iterator[str]:
        required = tuple(self._schema.get("required", ()))
        keys = dict.fromkeys((*self._schema.get("properties", ()), *required))
        for key in keys:
            self._check_name(key)
            value = self._value(property_schema(self._schema, key), key)
            opening = quoted(f"{PARAMETER}{key}>\n")
            rule = self._grammar.rule(f"{opening} {value}")
            yield rule if key in required else f"{rule}?"
        if not keys and self._schema.get("additionalProperties") is not False:
            value = self._value(property_schema(self._schema, ""), "")
            opening, closing = quoted(PARAMETER), quoted(">\n")
            yield self._grammar.rule(f"{opening} {self._grammar.terminal(FREE_KEY)} {closing} {value}") + "*"

    def _value(self, schema: Json, key: str) -> str:
        """An expression for a value and what closes it."""
        types = types_of(schema, self._root)
        if types and "string" not in types:
            return self._json(schema)
        return self._grammar.choice(self._options(schema, types, key))

    def _json(self, schema: Json) -> str:
        return f"{self._grammar.json({**schema, **self._definitions})} {quoted(VALUE_END)}"

    def _options(self, schema: Json, types: frozenset[str], key: str) -> Iterator[str]:
        """Expressions for the values of a schema, where `types` are allowed in that place and text is one of them."""
        schema = resolved(schema, self._root)
        for keyword in REFUSED:
            if keyword in schema:
                self._refuse(keyword, key)
        alternatives = schema.get("anyOf", schema.get("oneOf", schema.get("allOf")))
        if "const" in schema or "enum" in schema:
            for value in [schema["const"]] if "const" in schema else schema["enum"]:
                yield self._literal(value, types, key)
        elif alternatives is not None:
            if "allOf" in schema and len(alternatives) > 1:
                self._refuse("allOf", key)
            for alternative in alternatives:
                yield from self._options(alternative, types, key)
        else:
            own = types_of(schema, self._root)
            if "string" in own or not own:
                yield self._text(schema, types)
            for name in sorted(own - {"string"}):
                if name in ("null", "boolean"):  # as one lexeme with what follows, or a longer text would win over it
                    yield from (self._literal(value, types, key) for value in _VALUES[name])
                else:
                    yield self._json({**schema, "type": name})

    def _literal(self, value: object, types: frozenset[str], key: str) -> str:
        text = value if isinstance(value, str) else json.dumps(value)
        if PARAMETER_END in text or json.loads(json_text(text, types)) != value:
            self._refuse(f"the value {value!r}", key)
        return quoted(text + VALUE_END)

    def _text(self, schema: Json, types: frozenset[str]) -> str:
        low, high = schema.get("minLength", 0), schema.get("maxLength")
        text = ANY_TEXT if not low and high is None else f"/(?s:.{{{low},{'' if high is None else high}}})/"
        wrong = [f"(?s:.*){regex_of(PARAMETER_END)}(?s:.*)"]
        mistakable = [_MISTAKABLE[name] for name in sorted(types or CONTAINERS) if name in _MISTAKABLE]
        if mistakable:
            wrong.append(rf"[ \n\t\r]*({'|'.join(mistakable)})[ \n\t\r]*")
        terminal = self._grammar.terminal(" & ".join((text, *(f"~/{regex}/" for regex in wrong))))
        return self._grammar.terminal(f"{terminal} {quoted(VALUE_END)}")

    def _check_name(self, name: str) -> None:
        if not name or name != name.strip() or any(char in "<>\n" for char in name):
            self._refuse(f"the name {name!r}")

    def _refuse(self, what: str, key: str = "") -> NoReturn:
        where = f"{self._function.param}.properties.{key}" if key else self._function.param
        raise InvalidRequestError(
            f"{where} has {what}, which the call format of this model can't guarantee. Take it out of the schema, or "
            "let the model choose (tool_choice auto, without strict).",
            param=where,
        )


_VALUES: Mapping[str, tuple[Any, ...]] = {"null": (None,), "boolean": (True, False)}
