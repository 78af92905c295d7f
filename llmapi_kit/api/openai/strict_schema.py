"""What ``strict: true`` asks of a JSON schema: that it says of every object which keys it has, and closes it.

Source: OpenAI, "Structured model outputs", "Supported schemas": ``additionalProperties: false`` must always be set in
objects. That all properties are required is asked for there too, but not here: answers follow the schema without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmapi_kit.errors import InvalidRequestError

# Keywords that hold one schema, a list of schemas, or schemas by name.
_ONE = ("items", "additionalItems", "contains", "not", "if", "then", "else", "propertyNames")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def check_strict_schema(schema: Mapping[str, Any], param: str) -> None:
    """Raise for the first object that may have keys the schema does not name.

    Args:
        schema: a JSON schema.
        param: where it stands in the request.

    Raises:
        InvalidRequestError: it names the path of the object within the request.
    """
    for path, part in _schemas(schema, param):
        kind = part.get("type")
        is_object = kind == "object" or (isinstance(kind, list) and "object" in kind) or "properties" in part
        if is_object and part.get("additionalProperties") is not False:
            raise InvalidRequestError(
                f"{path}: with strict=true, additionalProperties must be there and be false, so that the object has no "
                "keys but its own. Add it, or leave strict out.",
                param=path,
            )


def _schemas(schema: Mapping[str, Any], param: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(path, schema) of a schema and all within, from the outside in."""
    waiting: list[tuple[str, Any]] = [(param, schema)]
    while waiting:
        path, part = waiting.pop(0)
        if not isinstance(part, Mapping):
            continue
        yield path, part
        waiting += [(f"{path}.{key}", part[key]) for key in _ONE if key in part]
        for key in _LISTS:
            if isinstance(part.get(key), list):
                waiting += [(f"{path}.{key}.{i}", each) for i, each in enumerate(part[key])]
        for key in _NAMED:
            if isinstance(part.get(key), Mapping):
                waiting += [(f"{path}.{key}.{name}", each) for name, each in part[key].items()]
