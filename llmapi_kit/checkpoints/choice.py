"""`Choice`: a model that somebody chose, with how it is to be loaded; `kit.load` and `kit.launch` take it for a name.

Knows nothing of how it was chosen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class Choice:
    """A model's name and options; the chooser in a notebook changes them as somebody clicks.

    Args:
        name: as for `kit.load`.
        options: of `kit.load`.

    Attributes:
        name: see above.
        options: see above.
        model: what the chooser has loaded; None before that.
    """

    def __init__(self, name: str, options: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.options: dict[str, Any] = dict(options or {})
        self.model: Any = None

    @property
    def code(self) -> str:
        """The line that loads it."""
        rest = "".join(f", {name}={_literal(value)}" for name, value in self.options.items())
        return f"model = kit.load({_literal(self.name)}{rest})"

    def __repr__(self) -> str:
        return f"Choice({self.name!r}, {self.options!r})"


def _literal(value: Any) -> str:
    """A value as one writes it in Python, text in double quotes."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
