"""What clients get of the Messages API, for the OpenAPI document: nothing is built or checked with this.

Source: Anthropic API reference, "Messages", "Streaming messages" and "Errors".
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from llmapi_kit.api.openapi import Sent

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal", "model_context_window_exceeded"]


class MessageFailureDetails(Sent):
    """What went wrong."""

    type: str = Field(examples=["invalid_request_error"])
    message: str = Field(description="What happened, what is allowed, what to do.")
    param: str | None = Field(description="The request's field at fault.")
    code: str | None = Field(description="For programs, such as context_length_exceeded.")
    details: dict[str, Any] | None = Field(None, description="For programs, where there is more to know.")


class MessageFailure(Sent):
    """An error; a stream that fails ends in one."""

    type: Literal["error"]
    error: MessageFailureDetails
    request_id: str


class ContentBlock(Sent):
    """A block of an answer; its type says which fields it has."""

    type: Literal["text", "thinking", "tool_use"]
    text: str | None = None
    citations: None = None
    thinking: str | None = None
    signature: str | None = Field(None, description="To be sent back as it is.")
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None


class MessageUsage(Sent):
    """What a message took."""

    input_tokens: int = Field(description="Of the prompt, that had to be computed.")
    cache_creation_input_tokens: Literal[0]
    cache_read_input_tokens: int = Field(description="Of the prompt, that need not be computed again.")
    output_tokens: int


class ModelMessage(Sent):
    """A whole answer."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[ContentBlock]
    stop_reason: StopReason | None = Field(description="Null on the start of a stream.")
    stop_sequence: str | None = Field(description="The text of stop_sequences that ended it.")
    usage: MessageUsage


class MessageDelta(Sent):
    """What an event adds to a block, or why the message ended."""

    type: Literal["text_delta", "thinking_delta", "signature_delta", "input_json_delta"] | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None


class MessageEvent(Sent):
    """An event of a message's stream; its type says which fields it has."""

    type: Literal[
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    message: ModelMessage | None = None
    index: int | None = None
    content_block: ContentBlock | None = None
    delta: MessageDelta | None = None
    usage: MessageUsage | None = None


class TokenCount(Sent):
    """How many tokens a prompt has."""

    input_tokens: int


FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": MessageFailure, "description": description}
    for status, description in (
        (400, "A field has a value that can't be used, or is not supported."),
        (401, "The API key is missing or wrong."),
        (404, "There is no such model."),
        (413, "The body is too large."),
        (415, "The body is encoded in a way this server does not read."),
        (429, "Too many requests wait already."),
        (500, "The model failed on this request."),
        (502, "The provider behind the model failed."),
        (503, "The model can't answer now."),
        (504, "It took too long."),
    )
}
