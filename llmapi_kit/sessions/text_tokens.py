"""About how many tokens a text has, where nobody can count them or it is too early to. Knows no model."""

from __future__ import annotations

# Characters of an alphabet that make a token, others make one each
CHARACTERS_A_TOKEN = 3.5


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has, rather too many than too few."""
    num_ascii = len(text.encode("ascii", "ignore"))
    return len(text) - num_ascii + int(num_ascii / CHARACTERS_A_TOKEN) + 1
