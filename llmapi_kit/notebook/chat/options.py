"""What a chat asks with: model, system prompt, sampling. Checked when it is set, not when the model is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from llmapi_kit.errors import ConfigError
from llmapi_kit.sampling.parameters import SamplingParams

SAMPLING = ("temperature", "top_p", "max_tokens", "seed")
INTEGERS = ("max_tokens", "seed")


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How to ask. None leaves it to the model.

    Attributes:
        model: which one; empty for the first.
        system: what the conversation begins with; also when it changes later.
        temperature: 0 to 2.
        top_p: above 0, at most 1.
        max_tokens: of an answer.
        seed: for the same answer again.
    """

    model: str = ""
    system: str = ""
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None

    def sampling(self) -> dict[str, Any]:
        """The sampling parameters that are set."""
        return {name: value for name in SAMPLING if (value := getattr(self, name)) is not None}

    def changed(self, changes: Mapping[str, Any]) -> ChatOptions:
        """The same with some values changed.

        Raises:
            ConfigError: there is no such option, or a value is of the wrong kind.
            InvalidRequestError: a value is out of its range.
        """
        known = {each.name for each in fields(self)}
        if unknown := sorted(set(changes) - known):
            raise ConfigError(f"A chat has no option {unknown[0]!r}. It has {', '.join(sorted(known))}.")
        found = replace(self, **{name: _read(name, value) for name, value in changes.items()})
        SamplingParams(**found.sampling())
        return found


def _read(name: str, value: Any) -> Any:
    if name not in SAMPLING:
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{name} is {value!r}; it must be a text.")
        return value or ""
    if value is None or value == "":
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (name in INTEGERS and value != int(value)):
        raise ConfigError(f"{name} is {value!r}; it must be {'a whole number' if name in INTEGERS else 'a number'}.")
    return int(value) if name in INTEGERS else float(value)
