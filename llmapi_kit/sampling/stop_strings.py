"""Stop strings in a stream of text: what may be shown, and when to stop.

Knows nothing of tokens. The batching loop feeds it on the engine thread.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Finds the first stop string in text that arrives in pieces.

    Text that may be the start of a stop string is held back until it is clear; what follows the stop string never comes
    out. Not thread-safe.

    Args:
        stops: the stop strings, none of them empty.
        is_included: whether the stop string itself comes out.

    Attributes:
        met: the stop string that was met; empty before.
    """

    def __init__(self, stops: Sequence[str], *, is_included: bool = False) -> None:
        self._stops = tuple(stops)
        self._is_included = is_included
        self._held = ""
        self.met = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """Take the next piece; returns what may be shown now, and whether a stop string was met."""
        if not self._stops:
            return text, False
        held = self._held + text
        found = [(at, at + len(stop)) for stop in self._stops if (at := held.find(stop)) >= 0]
        if found:
            self._held = ""
            start, end = min(found)
            self.met = held[start:end]
            return held[: end if self._is_included else start], True
        keep = max(_overlap(held, stop) for stop in self._stops)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep], False

    def flush(self) -> str:
        """The text still held back, once it is known that nothing follows."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper start of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
