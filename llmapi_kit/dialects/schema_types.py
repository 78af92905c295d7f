"""What JSON type a value has by its schema, and what JSON a bare text is under such types.

For call formats that write values as bare text. Knows as much of JSON Schema as it takes to tell types apart, no more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llmapi_kit.dialects.base import Json

MAX_DEPTH = 16  # of references and alternatives that are followed

_TYPE_NAMES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}
STRING = frozenset({"string"})
CONTAINERS = frozenset({"array", "object"})


def property_schema(parameters: Json, key: str) -> Json:
    """The schema of one argument; a string's where nothing is said of it."""
    parameters = resolved(parameters, parameters)
    properties = parameters.get("properties")
    schema = properties.get(key) if isinstance(properties, Mapping) else None
    if schema is None:
        schema = parameters.get("additionalProperties")
    if schema is True:
        return {}
    return schema if isinstance(schema, Mapping) else {"type": "string"}


def resolved(schema: Json, root: Json) -> Json:
    """The schema itself, or the one that its ``$ref`` into the root's definitions leads to."""
    for _ in range(MAX_DEPTH):
        ref = schema.get("$ref")
        if not isinstance(ref, str):
            return schema
        target: Any = root
        for part in ref.removeprefix("#/").split("/"):
            target = target.get(part) if isinstance(target, Mapping) else None
        if not isinstance(target, Mapping):
            return {}
        schema = target
    return {}


def types_of(schema: Json, root: Json, depth: int = 0) -> frozenset[str]:
    """The JSON types that a schema allows; empty where it does not say."""
    schema = resolved(schema, root)
    declared = schema.get("type")
    if isinstance(declared, str):
        return frozenset({declared})
    if isinstance(declared, list):
        return frozenset(name for name in declared if isinstance(name, str))
    if "const" in schema:
        return frozenset({type_name(schema["const"])})
    if isinstance(schema.get("enum"), list):
        return frozenset(map(type_name, schema["enum"]))
    if depth == MAX_DEPTH:
        return frozenset()
    for keyword in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(keyword), list):
            known = [types_of(part, root, depth + 1) for part in schema[keyword] if isinstance(part, Mapping)]
            if keyword == "allOf":
                known = [types for types in known if types]
                return frozenset.intersection(*known) if known else frozenset()
            return frozenset().union(*known) if all(known) else frozenset()
    return frozenset()


def type_name(value: object) -> str:
    """The JSON type of a parsed value."""
    return _TYPE_NAMES.get(type(value), "null")


def json_text(text: str, types: frozenset[str]) -> str:
    """A bare text as JSON of one of the types; a string where it is none of them.

    Where no types are known, objects and arrays are taken for what they look like.
    """
    bare = text.strip()
    bare = _PYTHON_WORDS.get(bare, bare)
    try:
        value = json.loads(bare, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    name = type_name(value)
    if name in (types or CONTAINERS) or (name == "integer" and "number" in types):
        return bare
    if name == "number" and "integer" in types and value.is_integer():
        return str(int(value))
    return json.dumps(text, ensure_ascii=False)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
