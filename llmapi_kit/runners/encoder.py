"""The Encoder protocol: weights that turn sequences of token ids into one vector each, or into a score.

An encoder knows nothing of requests, texts or queues. `encode` may be called from several threads at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class EncoderInput(NamedTuple):
    """One sequence.

    Attributes:
        ids: token ids; at least one, but for a table of word vectors.
        num_unpooled: tokens at its beginning that are read, and not pooled.
        type_ids: which of two texts each token is of; empty where there is one text.
    """

    ids: Sequence[int]
    num_unpooled: int = 0
    type_ids: Sequence[int] = ()


class Encoder(Protocol):
    """Computes batches.

    Attributes:
        size: numbers in a vector; 1 for a score.
        max_length: tokens that a sequence may have; 0 for no limit.
        batch_tokens: tokens, padding included, that are best computed at once.
        num_workers: threads that are best used at once.
        num_parameters: weights.
        device: where they are.
        dtype: of arithmetic.
    """

    size: int
    max_length: int
    batch_tokens: int
    num_workers: int
    num_parameters: int
    device: str
    dtype: str

    def start(self) -> None:
        """Called once on each thread that will call `encode`, before it does."""
        ...

    def encode(self, batch: Sequence[EncoderInput]) -> list[list[float]]:
        """A vector for each sequence, in their order; blocking.

        Raises:
            Exception: whatever the model raises; other batches are unharmed.
        """
        ...

    def close(self) -> None:
        """Give the memory back. The encoder is not used after it."""
        ...
