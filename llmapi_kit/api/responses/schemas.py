"""What clients get of the Responses API, for the OpenAPI document: nothing is built or checked with this.

Source: OpenAI API reference, "Responses".
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from llmapi_kit.api.openai.response_schemas import CREATED, TokenLogprob
from llmapi_kit.api.openapi import Sent
from llmapi_kit.api.responses.response import Status


class OutputContent(Sent):
    """A part of an item."""

    type: Literal["output_text", "reasoning_text", "input_text", "summary_text", "refusal"]
    text: str | None = None
    refusal: str | None = None
    annotations: list[dict[str, object]] | None = Field(None, description="None; OpenAI's texts have the field.")
    logprobs: list[TokenLogprob] | None = Field(None, description="Where they were asked for.")


class ResponseItem(Sent):
    """An item of an output or an input; its type says which fields it has."""

    id: str
    type: Literal["message", "reasoning", "function_call", "function_call_output"]
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: list[OutputContent] | None = None
    phase: Literal["commentary", "final_answer"] | None = None
    summary: list[OutputContent] | None = Field(None, description="Of reasoning: none is made here.")
    encrypted_content: str | None = Field(None, description="Of reasoning, where asked for: to be sent back as it is.")
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    output: str | list[OutputContent] | None = None


class InputTokensDetails(Sent):
    """More about the input's tokens."""

    cached_tokens: int = Field(description="That need not be computed again.")
    cache_write_tokens: int = Field(description="Always 0; nothing is charged for.")
    image_tokens: int | None = Field(default=None, description="Those that stand for pictures, where there are any.")


class OutputTokensDetails(Sent):
    """More about the output's tokens."""

    reasoning_tokens: int


class ResponseUsage(Sent):
    """What a response took."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseFailure(Sent):
    """Why a response failed."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class IncompleteDetails(Sent):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens", "content_filter"]


class ReasoningEcho(Sent):
    """How it was to think."""

    effort: str | None
    summary: None


class TextEcho(Sent):
    """How it was to be written."""

    format: dict[str, Any]
    verbosity: Literal["medium"]


class ModelResponse(Sent):
    """A response: what was asked of the model, and what came of it."""

    id: str
    object: Literal["response"]
    created_at: int = Field(description=CREATED)
    status: Status
    background: bool
    completed_at: int | None = Field(description=CREATED)
    error: ResponseFailure | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[ResponseItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: ReasoningEcho
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool = Field(description="Whether it is kept.")
    temperature: float | None
    text: TextEcho
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float | None
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None = Field(description="Null until it has ended.")
    user: str | None


class ResponseEvent(Sent):
    """An event of a response's stream; its type says which fields it has."""

    type: str = Field(examples=["response.output_text.delta"])
    sequence_number: int = Field(description="Counts from 0.")
    response: ModelResponse | None = None
    item: ResponseItem | None = None
    item_id: str | None = None
    output_index: int | None = None
    content_index: int | None = None
    part: OutputContent | None = None
    delta: str | None = None
    text: str | None = None
    name: str | None = None
    arguments: str | None = None
    logprobs: list[TokenLogprob] | None = None


class ResponseDeleted(Sent):
    """A stored response is gone."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class ResponseItemList(Sent):
    """A page of a response's own input, the newest first unless asked otherwise."""

    object: Literal["list"]
    data: list[ResponseItem]
    first_id: str | None = Field(description="Null on an empty page.")
    last_id: str | None = Field(description="What the next page is asked for with, as after.")
    has_more: bool


class InputTokens(Sent):
    """How many tokens an input has."""

    object: Literal["response.input_tokens"]
    input_tokens: int
