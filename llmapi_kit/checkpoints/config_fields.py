"""Fields of a config.json, taken only where they are of the type and in the range that a decoder can have.

Knows nothing of families. Free of torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

MAX_NUMBER = 2**31


class UnknownValueError(Exception):
    """A field, type or value that is for transformers to judge."""


def require(condition: bool) -> None:
    """Raise `UnknownValueError` unless a condition holds."""
    if not condition:
        raise UnknownValueError


def size(value: Any) -> int:
    """A whole number above 0."""
    if type(value) is not int or not 0 < value < MAX_NUMBER:
        raise UnknownValueError
    return value


def positive(value: Any) -> float:
    """A number above 0."""
    if not is_number(value) or not value > 0:
        raise UnknownValueError
    return float(value)


def is_number(value: Any) -> bool:
    """Whether a value is a number, and not a truth value."""
    return type(value) in (int, float)


def flag(values: Mapping[str, Any], name: str) -> bool:
    """A truth value; False where it does not stand there."""
    value = values.get(name, False)
    require(type(value) is bool)
    return bool(value)


def require_types(values: Mapping[str, Any], names: Iterable[str], types: tuple[type, ...]) -> None:
    """Raise unless each field that stands there is of one of these types."""
    require(all(type(values[name]) in types for name in names if name in values))
