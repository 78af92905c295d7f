"""Text of a reply, without the whitespace that only stands between it and something else.

Knows no markers.
"""

from __future__ import annotations

from llmapi_kit.dialects.text_stream import SPACE


class TrimmedText:
    """Text that comes out as it comes, but for whitespace at its end, which waits for what follows.

    Args:
        is_trimmed: whitespace before the first text is dropped, too.
    """

    def __init__(self, *, is_trimmed: bool = False) -> None:
        self._parts: list[str] = []
        self._space: list[str] = []
        self._is_framed = False
        self._is_trimmed = is_trimmed

    def add(self, text: str) -> None:
        """More text."""
        if self._is_trimmed:
            text = text.lstrip(SPACE)
        body = text.rstrip(SPACE)
        if body:
            self._parts += (*self._space, body)
            self._space.clear()
            self._is_framed = self._is_trimmed = False
        if len(body) < len(text):
            self._space.append(text[len(body) :])

    def frame(self) -> None:
        """Something else stands here; whitespace before it, and after it where no text follows, is dropped."""
        self._space.clear()
        self._is_framed = True

    def end(self) -> None:
        """Give out the whitespace at the end too, unless it is framing."""
        if not self._is_framed:
            self._parts += self._space
        self._space.clear()

    def take(self) -> str:
        """What is new since the last time."""
        text = "".join(self._parts)
        self._parts.clear()
        return text
