"""A conversation as a tree: asking again or editing a question makes a branch, and nothing said is lost.

Pure values; knows nothing of models, threads or widgets. `Session` guards it with a lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from llmapi_kit.errors import ConfigError
from llmapi_kit.ids import random_hex
from llmapi_kit.images.attach import with_images
from llmapi_kit.notebook.chat.attachments import Attachment

Role = Literal["root", "user", "assistant"]
Status = Literal["streaming", "done", "stopped", "failed", "waiting"]
CallStatus = Literal["waiting", "running", "done", "failed", "refused"]
REFUSED = "The user did not allow this call."
STOPPED = "The call was stopped before it ended."


@dataclass(slots=True)
class ToolCall:
    """A function that the model wants called, and what came of it.

    Attributes:
        id: the model's own, or made up where it gives none.
        name: of the function.
        arguments: a JSON text.
        status: ``waiting`` for somebody's click, and so on.
        result: what the model is told.
    """

    id: str = ""
    name: str = ""
    arguments: str = ""
    status: CallStatus = "waiting"
    result: str = ""


@dataclass(slots=True)
class Message:
    """One message of the tree.

    Attributes:
        id: unique in the conversation.
        role: who speaks; the root says nothing.
        content: the text.
        images: pictures of a question.
        reasoning: what the model thought first.
        tool_calls: what the model wants called; with their results once they have been.
        status: of an answer; ``waiting`` for somebody to allow its calls.
        error: what went wrong, and what to do.
        model: who answered.
        finish_reason: as OpenAI's API has it.
        num_prompt_tokens: of an answer, once it is complete; 0 where nobody says.
        num_completion_tokens: the same.
        ttft_s: time to the first token.
        tokens_per_s: after the first token; 0 where it can't be told.
        parent: the message that this one follows.
        children: those that follow this one, in the order they were made.
        selected: the child that is shown; None for none.
    """

    id: str
    role: Role
    content: str = ""
    images: tuple[Attachment, ...] = ()
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    status: Status = "done"
    error: str = ""
    model: str = ""
    finish_reason: str = ""
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    ttft_s: float = 0.0
    tokens_per_s: float = 0.0
    parent: Message | None = field(default=None, repr=False)
    children: list[Message] = field(default_factory=list, repr=False)
    selected: Message | None = field(default=None, repr=False)

    def siblings(self) -> list[Message]:
        """This message and its alternatives, in the order they were made."""
        return self.parent.children if self.parent is not None else [self]

    def to_openai(self) -> list[dict[str, Any]]:
        """What the model is told of this message, results of its calls included."""
        if self.role == "user":
            if self.images:
                return [with_images(self.content, [image.url for image in self.images])]
            return [{"role": "user", "content": self.content}]
        if not self.tool_calls:
            return [{"role": "assistant", "content": self.content}] if self.content else []
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in self.tool_calls
        ]
        results = [{"role": "tool", "tool_call_id": call.id, "content": call.result} for call in self.tool_calls]
        return [{"role": "assistant", "content": self.content or None, "tool_calls": calls}, *results]


class Conversation:
    """Messages below a root that says nothing. One branch is shown: the path of selected children."""

    def __init__(self) -> None:
        self._root = Message("root", "root")
        self._by_id = {"root": self._root}

    def path(self) -> list[Message]:
        """The messages of the branch that is shown, oldest first."""
        return list(self._walk())

    def last(self) -> Message:
        """The newest message of the branch that is shown; the root where there is none."""
        return (self.path() or [self._root])[-1]

    def get(self, message_id: str) -> Message:
        """A message by its id.

        Raises:
            ConfigError: there is none.
        """
        if message_id not in self._by_id:
            raise ConfigError(f"This conversation has no message {message_id!r}.")
        return self._by_id[message_id]

    def add(self, parent: Message, role: Role, content: str = "", images: tuple[Attachment, ...] = ()) -> Message:
        """A new message after another one; it is shown from now on."""
        message = Message(random_hex(8), role, content, images, parent=parent)
        parent.children.append(message)
        self._by_id[message.id] = message
        self.show(message)
        return message

    def show(self, message: Message) -> None:
        """Show the branch through a message; below it, whatever was shown there last."""
        while message.parent is not None:
            message.parent.selected = message
            message = message.parent

    def begin_anew(self) -> None:
        """Show an empty conversation. The earlier ones stay, as branches of the first message."""
        self._root.selected = None

    def to_openai(self, last: Message, system: str = "") -> list[dict[str, Any]]:
        """Messages up to and with one of them, as a request has them.

        Args:
            last: the newest that is told.
            system: what it begins with; empty for nothing.
        """
        line: list[Message] = []
        current: Message | None = last
        while current is not None and current.role != "root":
            line.append(current)
            current = current.parent
        told = [{"role": "system", "content": system}] if system else []
        return [*told, *(each for message in reversed(line) for each in message.to_openai())]

    def _walk(self) -> Iterator[Message]:
        current = self._root.selected
        while current is not None:
            yield current
            current = current.selected
