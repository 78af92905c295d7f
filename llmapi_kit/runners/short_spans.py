"""Makes windows and chunks of a model's attention short for a while, so that a short prompt reaches past them.

A window of 4,096 tokens is never left by the prompt of a check, which has to be quick whatever the model's size. The
same code computes with a window of 5. Knows nothing of how a runner computes. Part of loading.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

SPANS = ("sliding_window", "sliding_window_size", "attention_chunk_size")
SHORT = 5


@contextlib.contextmanager
def short_spans(model: Any, max_length: int) -> Iterator[None]:
    """Shorten every span that a sequence can outgrow, and give them their lengths back.

    Args:
        model: of transformers; its modules and its configuration are changed.
        max_length: tokens a sequence can have; a longer span limits nothing.
    """
    owners = [model.config, model.config.get_text_config(), *model.modules()]
    changed: list[tuple[Any, str, int]] = []
    for owner in owners:
        for name in SPANS:
            length = vars(owner).get(name)
            if isinstance(length, int) and SHORT < length < max_length:
                changed.append((owner, name, length))
                setattr(owner, name, SHORT)
    try:
        yield
    finally:
        for owner, name, length in changed:
            setattr(owner, name, length)


class HasWindows(Protocol):
    """What computes the layers by itself; a window for each of them, 0 for none."""

    windows: list[int]


@contextlib.contextmanager
def short_windows(decoder: HasWindows, max_length: int) -> Iterator[None]:
    """As `short_spans`, for what has taken a model's weights over."""
    kept = decoder.windows
    decoder.windows = shortened(kept, max_length)
    try:
        yield
    finally:
        decoder.windows = kept


def shortened(windows: list[int], max_length: int) -> list[int]:
    """Windows that a short prompt reaches past; those stay that no sequence does."""
    return [SHORT if SHORT < window < max_length else window for window in windows]
