"""Names for requests and answers: unique, not secret. Keys and sessions get theirs from `secrets`."""

from __future__ import annotations

import random

# Of its own, so that `random.seed` in a notebook makes no two requests alike. The system's source would give up the
# GIL at each call and wait to get it back.
_source = random.Random()  # noqa: S311 - nothing here is secret


def random_hex(num_digits: int) -> str:
    """So many hexadecimal digits by chance. Any thread."""
    return f"{_source.getrandbits(4 * num_digits):0{num_digits}x}"
