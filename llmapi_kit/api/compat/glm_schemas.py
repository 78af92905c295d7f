"""Bodies and answers of the GLM API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from llmapi_kit.api.openai.embeddings import MAX_INPUTS
from llmapi_kit.api.openai.request_body import StrictModel
from llmapi_kit.api.openapi import Sent
from llmapi_kit.errors import InvalidRequestError
from llmapi_kit.sampling.parameters import SamplingParams, with_off_values

MAX_LENGTH = 4096
TOP_P = 0.7
TEMPERATURE = 0.95


class GlmBody(StrictModel):
    """What every body has."""

    model: str | None = Field(None, description="A name from /v1/models; left out, the server's default.")


class GlmChatBody(GlmBody):
    """Body of POST /chat."""

    prompt: str
    history: list[list[str]] | list[str] | None = Field(
        None, description="Question and answer by turns, oldest first: in pairs, or in one flat list."
    )
    max_length: int | None = Field(
        None,
        description=f"Prompt and answer together have at most this many tokens, {MAX_LENGTH} if left out, and what the "
        "model's context allows. Of a model elsewhere, whose tokens can't be counted here, it limits the answer.",
        json_schema_extra={"minimum": 1},
    )
    top_p: float | None = Field(
        None, description=f"{TOP_P} if left out.", json_schema_extra={"exclusiveMinimum": 0, "maximum": 1}
    )
    temperature: float | None = Field(
        None, description=f"0 is greedy; {TEMPERATURE} if left out.", json_schema_extra={"minimum": 0, "maximum": 2}
    )

    def conversation(self) -> list[dict[str, str]]:
        """The messages, as `GenerationRequest` takes them.

        Raises:
            InvalidRequestError: the history has a question without an answer.
        """
        turns: list[str] = []
        for part in self.history or []:
            if isinstance(part, str):
                turns.append(part)
                continue
            _check_pairs(part)
            turns += part
        _check_pairs(turns)
        roles = ("user", "assistant")
        said = [{"role": roles[index % 2], "content": text} for index, text in enumerate(turns)]
        return [*said, {"role": "user", "content": self.prompt}]

    def sampling(self, defaults: Mapping[str, float]) -> SamplingParams:
        """The sampling parameters; what this API has no field for comes from `defaults`, the model's own.

        Raises:
            InvalidRequestError: a value is out of range.
        """
        own = {
            "top_p": TOP_P if self.top_p is None else self.top_p,
            "temperature": TEMPERATURE if self.temperature is None else self.temperature,
        }
        return SamplingParams(**with_off_values({**defaults, **own}))


class GlmStreamBody(GlmChatBody):
    """Body of POST /chat-stream."""

    chunk: bool | None = Field(None, description="Send only what is new, not all that was said so far.")


class GlmTokenizeBody(GlmBody):
    """Body of POST /tokenize, as GLM's clients send it."""

    prompt: str
    max_length: int = Field(
        description="At most this many ids, special tokens included; what is over is cut off.",
        json_schema_extra={"minimum": 1},
    )


class GlmEmbeddingBody(GlmBody):
    """Body of POST /embedding."""

    prompt: str | list[str] = Field(description=f"A text, or up to {MAX_INPUTS}.")


class GlmAnswer(Sent):
    """An answer, whole or so far."""

    content: str
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    model: str
    object: Literal["chat.completion"]


class GlmTokens(Sent):
    """A text's tokens."""

    token_ids: list[int] = Field(alias="tokenIds", description="With the special tokens that a prompt gets.")
    tokens: list[str] = Field(description="Without them.")


class GlmEmbeddings(Sent):
    """A vector for each text."""

    data: list[list[float]]
    model: str
    object: Literal["embedding"]


def _check_pairs(turns: list[str]) -> None:
    if len(turns) % 2:
        raise InvalidRequestError(
            f"history has {len(turns)} texts in a row; it needs an answer for every question, so an even number.",
            param="history",
        )
