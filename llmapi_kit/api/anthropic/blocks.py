"""Blocks of a conversation's messages: what clients send of them, and the conversation they make.

Source: Anthropic API reference, "Messages": content blocks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from llmapi_kit.api.openai.conversation_builder import ConversationBuilder
from llmapi_kit.api.openai.packed_reasoning import unpacked
from llmapi_kit.api.openai.request_body import StrictModel
from llmapi_kit.errors import InvalidRequestError, UnsupportedFieldError

# By type, the role whose messages have such a block, the fields it needs, and those it may have besides.
BLOCK_FIELDS: Mapping[str, tuple[Sequence[str], Sequence[str], Sequence[str]]] = {
    "text": (("user", "assistant", "system"), ("text",), ()),
    "thinking": (("assistant",), ("thinking",), ("signature",)),
    "tool_use": (("assistant",), ("id", "name", "input"), ()),
    "tool_result": (("user",), ("tool_use_id",), ("content", "is_error")),
}


class TextBlock(StrictModel):
    """A block of text."""

    type: str
    text: str | None = None


class Block(StrictModel):
    """A block of a message; its type says which fields it has."""

    type: str = Field(description="text, thinking, tool_use or tool_result.")
    text: str | None = None
    thinking: str | None = Field(None, description="Of thinking, as it came.")
    signature: str | None = Field(None, description="Of thinking, as it came; has its text where that was omitted.")
    id: str | None = Field(None, description="Of a call.")
    name: str | None = Field(None, description="Of the tool that is called.")
    input: dict[str, Any] | None = Field(None, description="Of a call.")
    tool_use_id: str | None = Field(None, description="Of a result: which call it answers.")
    content: str | list[TextBlock] | None = Field(None, description="Of a result.")
    is_error: bool | None = Field(None, description="Of a result: the call failed; the model reads Error: before it.")


class MessageParam(StrictModel):
    """One message of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


def check_block(block: Block, role: str, path: str) -> None:
    """Raise for a block that can't be, or has a field that its type has not.

    Raises:
        InvalidRequestError: it names the field.
    """
    if block.type not in BLOCK_FIELDS:
        raise UnsupportedFieldError(
            f"{path} is of type {block.type[:40]!r}; this model takes {', '.join(BLOCK_FIELDS)}.", param=f"{path}.type"
        )
    roles, needed, others = BLOCK_FIELDS[block.type]
    if role not in roles:
        raise InvalidRequestError(
            f"{path} is of type {block.type}, which a message of the {role} can't have.", param=f"{path}.type"
        )
    for name in needed:
        if getattr(block, name) is None:
            raise InvalidRequestError(f"{path} is of type {block.type} and has no {name}.", param=f"{path}.{name}")
    for name in Block.model_fields:
        if name not in ("type", *needed, *others) and getattr(block, name) is not None:
            raise InvalidRequestError(
                f"{path} is of type {block.type}, which has no field {name}.", param=f"{path}.{name}"
            )
    for index, part in enumerate(block.content if isinstance(block.content, list) else ()):
        check_text(part, f"{path}.content.{index}")


def check_text(part: TextBlock, path: str) -> None:
    """Raise for a block that is not of text where only text may stand."""
    if part.type != "text":
        raise UnsupportedFieldError(
            f"{path} is of type {part.type[:40]!r}; this model takes text only.", param=f"{path}.type"
        )
    if part.text is None:
        raise InvalidRequestError(f"{path} has no text.", param=f"{path}.text")


def conversation(system: str, messages: Sequence[MessageParam]) -> list[dict[str, Any]]:
    """The conversation in the engine's words."""
    builder = ConversationBuilder()
    if system:
        builder.say("system", system)
    for message in messages:
        if isinstance(message.content, str):
            builder.say(message.role, message.content)
        elif message.role == "assistant":
            _tell_assistant(builder, message.content)
        else:
            _tell_other(builder, message.role, message.content)
    return builder.messages


def text_of(content: str | Sequence[TextBlock | Block] | None) -> str:
    """Text in place of blocks."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(block.text or "" for block in content)


def _tell_assistant(builder: ConversationBuilder, blocks: Sequence[Block]) -> None:
    has_begun = False
    for block in blocks:
        if block.type == "text":
            builder.say("assistant", block.text or "", goes_on=has_begun)
        elif block.type == "thinking":
            if thought := block.thinking or unpacked(block.signature or ""):
                builder.think(thought)
        else:
            builder.call(block.id or "", block.name or "", json.dumps(block.input, ensure_ascii=False))
        has_begun = True


def _tell_other(builder: ConversationBuilder, role: str, blocks: Sequence[Block]) -> None:
    """Results of calls, each a message of its own, and between them what is said."""
    said: list[Block] = []
    for block in blocks:
        if block.type == "text":
            said.append(block)
            continue
        _say(builder, role, said)
        said = []
        text = text_of(block.content)
        builder.result(block.tool_use_id or "", f"Error: {text}" if block.is_error else text)
    _say(builder, role, said)


def _say(builder: ConversationBuilder, role: str, blocks: Sequence[Block]) -> None:
    if blocks:
        builder.say(role, text_of(blocks))
