"""A conversation in the engine's words, from APIs that tell it item by item or block by block.

What an assistant thought, said and called stands in one message there, and each result of a call in one of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Content = str | Sequence[dict[str, Any]]
"""A text, or parts of the types ``text`` and ``image_url``, as OpenAI's messages have them."""


def content_of(parts: Sequence[dict[str, Any]]) -> Content:
    """Parts as an engine takes them: one text where none is a picture."""
    if any(part["type"] == "image_url" for part in parts):
        return parts
    return "\n".join(part["text"] for part in parts)


def text_part(text: str) -> dict[str, Any]:
    """A part that is text."""
    return {"type": "text", "text": text}


def image_part(url: str, detail: str | None = None) -> dict[str, Any]:
    """A part that is a picture."""
    return {"type": "image_url", "image_url": {"url": url} if detail is None else {"url": url, "detail": detail}}


class ConversationBuilder:
    """Collects a conversation, oldest first."""

    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []

    @property
    def messages(self) -> list[dict[str, Any]]:
        """See `llmapi_kit.engines.base.GenerationRequest`."""
        return [
            {**message, "content": ""} if message["content"] is None and "tool_calls" not in message else message
            for message in self._messages
        ]

    def say(self, role: str, content: Content, *, goes_on: bool = False) -> None:
        """Somebody says something.

        Args:
            role: who; a developer is the system.
            content: what; the assistant's is text.
            goes_on: it belongs to what the same one said last.
        """
        if role != "assistant":
            self._messages.append({"role": "system" if role == "developer" else role, "content": content})
            return
        last = self._last_of_assistant()
        if last is None or (last["content"] is not None and not goes_on):
            last = self._begin()
        last["content"] = content if last["content"] is None else f"{last['content']}\n{content}"

    def think(self, text: str) -> None:
        """The assistant thinks; what it says and calls then stands in the same message."""
        last = self._last_of_assistant()
        if last is None or last["content"] is not None or "tool_calls" in last:
            last = self._begin()
        known = last.get("reasoning_content")
        last["reasoning_content"] = text if known is None else f"{known}\n{text}"

    def call(self, call_id: str, name: str, arguments: str) -> None:
        """The assistant calls a function."""
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        (self._last_of_assistant() or self._begin()).setdefault("tool_calls", []).append(call)

    def result(self, call_id: str, content: Content) -> None:
        """A function gave a result."""
        self._messages.append({"role": "tool", "content": content, "tool_call_id": call_id})

    def _last_of_assistant(self) -> dict[str, Any] | None:
        """The message it is told in, where nobody else spoke since."""
        last = self._messages[-1] if self._messages else None
        return last if last is not None and last["role"] == "assistant" else None

    def _begin(self) -> dict[str, Any]:
        self._messages.append({"role": "assistant", "content": None})
        return self._messages[-1]
