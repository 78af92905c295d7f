"""What clients get of stored chat completions, for the OpenAPI document: nothing is built or checked with this.

Source: OpenAI API reference, "Chat Completions": objects of list, delete and messages.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llmapi_kit.api.openai.response_schemas import ChatCompletion, MessageToolCall
from llmapi_kit.api.openapi import Sent


class StoredChatCompletion(ChatCompletion):
    """A whole answer, as it was stored."""

    metadata: dict[str, str]


class StoredChatCompletionList(Sent):
    """A page of stored answers."""

    object: Literal["list"]
    data: list[StoredChatCompletion]
    first_id: str | None = Field(description="Null on an empty page.")
    last_id: str | None = Field(description="What the next page is asked for with, as after.")
    has_more: bool


class CompletionDeleted(Sent):
    """A stored answer is gone."""

    object: Literal["chat.completion.deleted"]
    id: str
    deleted: Literal[True]


class StoredContentPart(Sent):
    """A part of a message's content."""

    type: Literal["text", "refusal"]
    text: str | None = None
    refusal: str | None = None


class StoredMessage(Sent):
    """A message of the question."""

    id: str
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = Field(description="Null where it came in parts, or with tool calls only.")
    content_parts: list[StoredContentPart] | None = Field(description="Null where it did not come in parts.")
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[MessageToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class StoredMessageList(Sent):
    """A page of the messages of the question, the oldest first unless asked otherwise."""

    object: Literal["list"]
    data: list[StoredMessage]
    first_id: str | None = Field(description="Null on an empty page.")
    last_id: str | None = Field(description="What the next page is asked for with, as after.")
    has_more: bool
