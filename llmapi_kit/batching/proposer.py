"""Who guesses the next tokens of an answer, one object for each; the model checks them, several in one step.

Knows no models. Engine thread only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Proposer(Protocol):
    """The guesses of one answer."""

    def extend(self, ids: Sequence[int]) -> None:
        """The text goes on with these."""
        ...

    def guess(self, limit: int) -> list[int]:
        """What may come next, `limit` tokens at most; often nothing."""
        ...

    def learn(self, num_guessed: int, num_right: int) -> None:
        """How many tokens of the last guess came true."""
        ...
