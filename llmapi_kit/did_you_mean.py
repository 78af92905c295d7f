"""The name that somebody may have meant, for messages about a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

CLOSE_ENOUGH = 0.6


def did_you_mean(name: str, known: Iterable[str], habits: Mapping[str, str] | None = None) -> str:
    """A sentence that names what was probably meant, with a space before it; empty where nothing is like it.

    Args:
        name: that is not known.
        known: those that are.
        habits: what other tools call something, each with the sentence that says what it is here.
    """
    if habits is not None and name in habits:
        return f" {habits[name]}"
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=CLOSE_ENOUGH)
    return f" Did you mean {by_lower[close[0]]!r}?" if close else ""
