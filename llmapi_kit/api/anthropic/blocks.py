"""Blocks of a conversation's messages: what clients send of them, and the conversation they make.

Source: Anthropic API reference, "Messages": content blocks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from llmapi_kit.api.openai.conversation_builder import (
    Content,
    ConversationBuilder,
    content_of,
    image_part,
    text_part,
)
from llmapi_kit.api.openai.packed_reasoning import unpacked
from llmapi_kit.api.openai.request_body import StrictModel
from llmapi_kit.errors import InvalidRequestError, UnsupportedFieldError

# By type, the role whose messages have such a block, the fields it needs, and those it may have besides.
BLOCK_FIELDS: Mapping[str, tuple[Sequence[str], Sequence[str], Sequence[str]]] = {
    "text": (("user", "assistant", "system"), ("text",), ()),
    "image": (("user",), ("source",), ()),
    "thinking": (("assistant",), ("thinking",), ("signature",)),
    "tool_use": (("assistant",), ("id", "name", "input"), ()),
    "tool_result": (("user",), ("tool_use_id",), ("content", "is_error")),
}


class ImageSource(StrictModel):
    """Where a picture is."""

    type: str = Field(description="base64 or url.")
    media_type: str | None = Field(None, description="With type base64: image/png and such.")
    data: str | None = Field(None, description="With type base64: the file.")
    url: str | None = Field(None, description="With type url: a data: URL, or one of a host that the owner has listed.")


class TextBlock(StrictModel):
    """A block of text."""

    type: str
    text: str | None = None


class ResultBlock(TextBlock):
    """A block of what a tool gave: text, or a picture."""

    source: ImageSource | None = Field(None, description="Of an image, for models that see.")


class Block(StrictModel):
    """A block of a message; its type says which fields it has."""

    type: str = Field(description="text, image, thinking, tool_use or tool_result.")
    text: str | None = None
    source: ImageSource | None = Field(None, description="Of an image, for models that see.")
    thinking: str | None = Field(None, description="Of thinking, as it came.")
    signature: str | None = Field(None, description="Of thinking, as it came; has its text where that was omitted.")
    id: str | None = Field(None, description="Of a call.")
    name: str | None = Field(None, description="Of the tool that is called.")
    input: dict[str, Any] | None = Field(None, description="Of a call.")
    tool_use_id: str | None = Field(None, description="Of a result: which call it answers.")
    content: str | list[ResultBlock] | None = Field(None, description="Of a result.")
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
    _check_source(block.source, path)
    for index, part in enumerate(block.content if isinstance(block.content, list) else ()):
        if part.type == "image" and part.source is not None and part.text is None:
            _check_source(part.source, f"{path}.content.{index}")
        else:
            check_text(part, f"{path}.content.{index}")


def _check_source(source: ImageSource | None, path: str) -> None:
    """Raise for a picture without its file or its address."""
    if source is not None and source.type not in ("base64", "url"):
        raise UnsupportedFieldError(
            f"{path}.source is of type {source.type[:40]!r}; a picture comes as base64 or url.",
            param=f"{path}.source.type",
        )
    if source is not None and (source.data if source.type == "base64" else source.url) is None:
        name = "data" if source.type == "base64" else "url"
        raise InvalidRequestError(
            f"{path}.source is of type {source.type} and has no {name}.", param=f"{path}.source.{name}"
        )


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


def _content(blocks: str | Sequence[ResultBlock | Block] | None, begin: str = "") -> Content:
    """Text, or parts where a block is a picture; with something before it."""
    if blocks is None or isinstance(blocks, str):
        return f"{begin}{blocks or ''}"
    parts = [image_part(_url(block.source)) if block.source else text_part(block.text or "") for block in blocks]
    if begin:
        parts[:1] = (
            [text_part(begin + parts[0]["text"])]
            if parts and parts[0]["type"] == "text"
            else [
                text_part(begin),
                *parts[:1],
            ]
        )
    return content_of(parts)


def _url(source: ImageSource) -> str:
    if source.type == "url":
        return source.url or ""
    return f"data:{source.media_type or 'application/octet-stream'};base64,{source.data}"


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
        if block.type in ("text", "image"):
            said.append(block)
            continue
        _say(builder, role, said)
        said = []
        builder.result(block.tool_use_id or "", _content(block.content, "Error: " if block.is_error else ""))
    _say(builder, role, said)


def _say(builder: ConversationBuilder, role: str, blocks: Sequence[Block]) -> None:
    if blocks:
        builder.say(role, _content(blocks))
