"""Which known name somebody may have meant who wrote one that means nothing.

Known are the kit's own models, those of the table, and those in the hub's cache. Asks nobody.
"""

from __future__ import annotations

from difflib import get_close_matches

from llmapi_kit.models.hub_cache import cached_names
from llmapi_kit.models.known_models import known_models

OWN = ("pocket", "mock")
LIKENESS = 0.75


def similar_names(name: str, limit: int = 2) -> list[str]:
    """Known names that are most like `name`, the likest first; an owner that was left out counts for nothing."""
    full = [*OWN, *dict.fromkeys([*(each.name for each in known_models()), *cached_names()])]
    by_text = {each.lower(): each for each in full}
    if "/" not in name:
        by_text |= {each.split("/")[1].lower(): each for each in full if "/" in each}
    text = name[:200].lower()
    found = [text] if text in by_text else get_close_matches(text, list(by_text), n=limit + 1, cutoff=LIKENESS)
    return [each for each in dict.fromkeys(by_text[text] for text in found) if each != name][:limit]


def did_you_mean(name: str) -> str:
    """A sentence with the known names that are most like `name`, with a space before it; empty without any."""
    found = similar_names(name)
    return f" Did you mean {' or '.join(map(repr, found))}?" if found else ""
