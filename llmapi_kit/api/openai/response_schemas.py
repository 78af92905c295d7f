"""What clients get, as schemas for the OpenAPI document: nothing is built or checked with these.

The endpoints write their JSON themselves, chunk by chunk; tests hold every answer against these models.

Source: OpenAI API reference, objects "chat.completion", "chat.completion.chunk", "text_completion", "embedding" and
"model"; `reasoning_content`, tokenize and detokenize are vLLM's.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llmapi_kit.api.openapi import Sent
from llmapi_kit.types import LoadState

FINISH_REASON = (
    "stop: it ended by itself or at a stop text; length: at max_tokens or the end of the context; content_filter: a "
    "provider's filter cut it."
)
CREATED = "Unix time in seconds."
CHUNK_USAGE = (
    "With stream_options.include_usage: of the request, on the last chunk, and null before; with "
    "continuous_usage_stats: what was used so far."
)


class PromptDetails(Sent):
    """More about a prompt's tokens."""

    cached_tokens: int = Field(description="Prompt tokens that need not be computed again.")


class CompletionDetails(Sent):
    """More about an answer's tokens."""

    reasoning_tokens: int = Field(description="Tokens of reasoning_content.")


class UsageSoFar(Sent):
    """What a request has taken up to a chunk."""

    prompt_tokens: int
    completion_tokens: int = Field(description="Of all answers, and of candidates that best_of dropped.")
    total_tokens: int


class Usage(UsageSoFar):
    """What a request took."""

    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails | None = None


class TopLogprob(Sent):
    """A token that was likely at this place."""

    token: str
    logprob: float | None = Field(description="Natural logarithm; null for the first token of a prompt.")
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token of the answer, and what else was likely at its place."""

    top_logprobs: list[TopLogprob] = Field(description="The likeliest first.")


class ChatLogprobs(Sent):
    """How likely each token was, by the model's own distribution."""

    content: list[TokenLogprob]
    refusal: None


class FunctionCall(Sent):
    """The function a tool call calls."""

    name: str
    arguments: str = Field(description="A JSON object, as text.")


class MessageToolCall(Sent):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class AssistantMessage(Sent):
    """The answer."""

    role: Literal["assistant"]
    content: str | None = Field(description="Null where there are only tool calls.")
    refusal: None
    annotations: list[dict[str, object]] = Field(description="None; OpenAI's answers have the field.", max_length=0)
    reasoning_content: str | None = Field(None, description="What a reasoning model thought before.")
    tool_calls: list[MessageToolCall] | None = None


class ChatChoice(Sent):
    """One of n answers."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"] = Field(description=FINISH_REASON)


class ChatCompletion(Sent):
    """A whole answer to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int = Field(description=CREATED)
    model: str
    choices: list[ChatChoice]
    usage: Usage
    service_tier: Literal["default"] | None = Field(None, description="Where the request named a tier.")
    metadata: dict[str, str] | None = Field(None, description="Where it was stored.")


class FunctionCallPiece(Sent):
    """A piece of what a tool call calls."""

    name: str | None = None
    arguments: str = Field(description="To be appended.")


class ToolCallPiece(Sent):
    """A piece of a tool call; the first one has its id, type and name."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionCallPiece


class ChatDelta(Sent):
    """What a chunk adds to the answer; the first one has the role, the last one nothing."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallPiece] | None = None


class ChatChunkChoice(Sent):
    """What a chunk adds to one of n answers."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"] | None = Field(description=FINISH_REASON)


class ChatCompletionChunk(Sent):
    """A piece of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int = Field(description=CREATED)
    model: str
    choices: list[ChatChunkChoice] = Field(description="Empty on the chunk with the usage.")
    usage: Usage | UsageSoFar | None = Field(None, description=CHUNK_USAGE)
    service_tier: Literal["default"] | None = Field(None, description="Where the request named a tier.")


class CompletionLogprobs(Sent):
    """How likely each token was, by the model's own distribution; four lists of the same length."""

    tokens: list[str]
    token_logprobs: list[float | None] = Field(description="Null for the first token of a prompt.")
    top_logprobs: list[dict[str, float | None] | None]
    text_offset: list[int] = Field(description="Where each token begins in the text, in characters.")


class CompletionChoice(Sent):
    """One of the continuations, prompt by prompt; a piece of it in a stream."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length", "content_filter"] | None = Field(
        description=FINISH_REASON + " Null until then."
    )


class Completion(Sent):
    """Continuations of prompts."""

    id: str
    object: Literal["text_completion"]
    created: int = Field(description=CREATED)
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class CompletionChunk(Sent):
    """A piece of a streamed continuation."""

    id: str
    object: Literal["text_completion"]
    created: int = Field(description=CREATED)
    model: str
    choices: list[CompletionChoice] = Field(description="Empty on the chunk with the usage.")
    usage: Usage | UsageSoFar | None = Field(None, description=CHUNK_USAGE)


class EmbeddingUsage(Sent):
    """What the inputs took."""

    prompt_tokens: int
    total_tokens: int


class Embedding(Sent):
    """The vector of one input."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(description="Numbers; with base64, their little-endian float32 bytes.")


class EmbeddingList(Sent):
    """A vector for each input."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class Image(Sent):
    """A picture; one of the first two is null."""

    b64_json: str | None = Field(description="The file, in base64.")
    url: str | None = Field(description="Where it can be fetched, for a while; or the file itself as a data: URL.")
    revised_prompt: str | None = Field(None, description="The prompt it was really made from, where that differs.")


class ImageList(Sent):
    """The pictures."""

    created: int = Field(description=CREATED)
    data: list[Image]


class ModelDetails(Sent):
    """What OpenAI's model object has no room for."""

    context_length: int = Field(description="Prompt and answer together, in tokens; 0 where there is no fixed limit.")
    capabilities: list[str] = Field(description="Words such as chat, completions, embeddings.")
    description: str
    num_parameters: int = Field(description="0 where unknown.")
    device: str
    dtype: str
    defaults: dict[str, float] = Field(description="Sampling parameters used where a request says nothing.")
    state: LoadState = Field(description="Whether it is in memory; one that is not is loaded by the first request.")
    alias_of: str | None = Field(description="The model that this name stands for; null for a model's own name.")


class ModelCard(Sent):
    """A model that this server answers with."""

    id: str = Field(description="What requests name as model.")
    object: Literal["model"]
    created: int = Field(description=CREATED)
    owned_by: str
    root: str = Field(description="Of an adapter, what it was loaded from; else the id.")
    parent: str | None = Field(description="Of an adapter, the model that it goes with.")
    llmapi_kit: ModelDetails


class ModelList(Sent):
    """Every model, the default one first."""

    object: Literal["list"]
    data: list[ModelCard]


class Tokenized(Sent):
    """Token ids."""

    count: int
    max_model_len: int = Field(description="The model's context, in tokens.")
    tokens: list[int]
    token_strs: list[str] | None = Field(description="Null unless return_token_strs.")


class Detokenized(Sent):
    """The text of token ids."""

    prompt: str


class Version(Sent):
    """The version of the kit."""

    version: str
