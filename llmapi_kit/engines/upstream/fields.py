"""Fields of an upstream's JSON, in the several shapes that providers give them.

Believes nothing: a field of a type that means nothing here is an error.

Source: besides OpenAI's API reference, Mistral's content parts, OpenRouter's `reasoning_details`, Anthropic's names of
token counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MAX_COUNT = 10**9  # no answer has more tokens
TEXT_PART = ("text", "content", "refusal")
REASONING_PART = ("thinking", "reasoning", "reasoning_content", "summary", "text", "content")
REASONING_TYPES = ("thinking", "reasoning")


class MalformedError(ValueError):
    """A part of an answer is not what it should be."""


class IncompleteError(ValueError):
    """An answer ended before it was complete."""


def mapping(value: object, what: str) -> Mapping[str, Any]:
    """An object.

    Raises:
        MalformedError: it is something else.
    """
    if not isinstance(value, Mapping):
        raise MalformedError(f"{what} is {type(value).__name__}, not an object")
    return value


def sequence(value: object, what: str) -> Sequence[Any]:
    """A list; null is an empty one.

    Raises:
        MalformedError: it is something else.
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        raise MalformedError(f"{what} is {type(value).__name__}, not a list")
    return value


def text(container: Mapping[str, Any], name: str) -> str:
    """A text; null is an empty one.

    Raises:
        MalformedError: it is something else.
    """
    value = container.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise MalformedError(f"{name} is {type(value).__name__}, not a text")
    return value


def whole_characters(value: str) -> str:
    """A text that can be sent on: halves of characters, which JSON can have, are joined or marked."""
    if value.isascii():
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def ends_in_half(value: str) -> bool:
    """Whether a text ends in the first half of a character."""
    return "\ud800" <= value[-1:] <= "\udbff"


def position(container: Mapping[str, Any], default: int | None) -> int | None:
    """The index; some send it as a text, some not at all.

    Raises:
        MalformedError: it is something else.
    """
    value = container.get("index")
    if value is None or value == "":
        return default
    index = count(value)
    if index is None:
        raise MalformedError(f"the index is {value!r:.20}")
    return index


def count(value: object) -> int | None:
    """A whole number of tokens or things, also one written as a text or with a point; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_COUNT:
        return None
    return int(value) if value == int(value) else None


def content(value: object) -> tuple[str, str]:
    """The text and the reasoning of a message's content, which is a text or a list of parts.

    Raises:
        MalformedError: it is neither.
    """
    if value is None or isinstance(value, str):
        return value or "", ""
    texts, thoughts = [], []
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, Mapping) and part.get("type") in REASONING_TYPES:
            thoughts.append(_inner_text(part, REASONING_PART))
        else:
            texts.append(_inner_text(part, TEXT_PART))
    return "".join(texts), "".join(thoughts)


def reasoning(message: Mapping[str, Any]) -> str:
    """The reasoning, under the first of its names that has some: a provider may say the same under two.

    Raises:
        MalformedError: it is not text.
    """
    for name in ("reasoning_content", "reasoning", "thinking", "reasoning_details"):
        if found := _inner_text(message.get(name), REASONING_PART):
            return found
    return ""


def _inner_text(value: object, names: Sequence[str]) -> str:
    """The text of a part. One without text, like a reference or what is encrypted, has none."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list):
        return "".join(_inner_text(part, names) for part in value)
    if isinstance(value, Mapping):
        return next((found for name in names if (found := _inner_text(value.get(name), names))), "")
    raise MalformedError(f"the content is {type(value).__name__}, not a text")
