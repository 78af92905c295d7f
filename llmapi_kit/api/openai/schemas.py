"""What clients may send: request bodies of the OpenAI API, and how they become sampling parameters.

A field that is not listed here is refused by name, unless its value asks for nothing: null, or the value in
`NEUTRAL`. So no field is ever accepted and ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from llmapi_kit.errors import InvalidRequestError, UnsupportedFieldError
from llmapi_kit.sampling.parameters import SamplingParams

# Values of unsupported fields that change nothing, so clients that always send them are served.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none",),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "num_beams": (1,),
    "store": (False,),
    "service_tier": ("auto", "default"),
}
MAX_ANSWERS = 4
# Parameters of SamplingParams that have the same name on the wire.
SAMPLING_FIELDS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "ignore_eos",
)


class Strict(BaseModel):
    """A JSON object without coercion: "0.5" is not a number, 1 is not true."""

    model_config = ConfigDict(strict=True, extra="allow")


class StreamOptions(Strict):
    """Options of a stream."""

    include_usage: bool | None = Field(None, description="Send the usage on a last chunk without choices.")


class TextPart(Strict):
    """A text in a message's content."""

    type: str
    text: str | None = None


class Message(Strict):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None


class GenerationBody(Strict):
    """Fields that chat completions and completions share. Ranges are those of `SamplingParams`."""

    model: str | None = Field(None, description="A name from /v1/models; left out, the server's default.")
    stream: bool | None = Field(None, description="Send pieces as server-sent events.")
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, description="How many answers, 1 to 4.")
    max_tokens: int | None = Field(None, description="At most this many new tokens; default: up to the context.")
    temperature: float | None = Field(None, description="0 is greedy. Default: the model's own, else 1.")
    top_k: int | None = Field(None, description="Keep the k most likely tokens; 0 keeps all.")
    top_p: float | None = Field(None, description="Keep the likeliest tokens that make up this probability.")
    min_p: float | None = Field(None, description="Drop tokens below this share of the likeliest one.")
    repetition_penalty: float | None = Field(None, description="Divides logits of tokens already seen; 1 is off.")
    presence_penalty: float | None = Field(None, description="Subtracted once from tokens already made.")
    frequency_penalty: float | None = Field(None, description="Subtracted for each time a token was made.")
    logit_bias: dict[str, float] | None = Field(None, description="Token id to a number added to its logit.")
    seed: int | None = Field(None, description="The same request with the same seed gives the same text.")
    stop: str | list[str] | None = Field(None, description="Up to four texts that end the answer.")
    stop_token_ids: list[int] | None = Field(None, description="Token ids that end the answer.")
    ignore_eos: bool | None = Field(None, description="Go on past the end of turn, up to max_tokens.")

    def refuse_unsupported(self) -> None:
        """Raise for the first field that would be ignored, here or in an object within.

        Raises:
            UnsupportedFieldError: it names the field.
        """
        for path, value in _extras(self):
            if value is not None and value not in NEUTRAL.get(path, ()):
                allowed = " or ".join(map(repr, NEUTRAL.get(path, ())))
                hint = f" Only {allowed} is possible." if allowed else " Remove it from the request."
                raise UnsupportedFieldError(f"The field {path} is not supported by this server.{hint}", param=path)
        if self.n is not None and not 1 <= self.n <= MAX_ANSWERS:
            raise InvalidRequestError(f"n is {self.n}; it must be 1 to {MAX_ANSWERS}.", param="n")
        if self.stream_options is not None and not self.stream:
            raise InvalidRequestError("stream_options goes with stream=true only.", param="stream_options")

    def sampling(self, defaults: Mapping[str, float], *, logprobs: int | None) -> SamplingParams:
        """The sampling parameters; what the body leaves out comes from `defaults`, the model's own."""
        values: dict[str, Any] = dict(defaults)
        values |= {name: value for name in SAMPLING_FIELDS if (value := getattr(self, name)) is not None}
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return SamplingParams(
            **values,
            max_tokens=self._max_tokens(),
            logit_bias=self._logit_bias(),
            stop=tuple(stop),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            logprobs=logprobs,
        )

    def _max_tokens(self) -> int | None:
        return self.max_tokens

    def _logit_bias(self) -> dict[int, float]:
        bias: dict[int, float] = {}
        for key, value in (self.logit_bias or {}).items():
            if not key.isascii() or not key.isdigit() or len(key) > 10:
                raise InvalidRequestError(
                    f"logit_bias has the key {key[:40]!r}; keys are token ids.", param="logit_bias"
                )
            bias[int(key)] = value
        return bias


class ChatBody(GenerationBody):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: int | None = Field(None, description="OpenAI's newer name of max_tokens.")
    logprobs: bool | None = Field(None, description="Report the log-probability of each token.")
    top_logprobs: int | None = Field(None, description="With logprobs: how many alternatives, 0 to 20.")

    @field_validator("messages")
    @classmethod
    def _check_messages(cls, messages: list[Message]) -> list[Message]:
        for message in messages:
            if message.content is None:
                raise ValueError("every message needs content")
        return messages

    def refuse_unsupported(self) -> None:
        """See `GenerationBody`; the types of content parts first, as what is in a part follows from its type."""
        self.conversation()
        super().refuse_unsupported()

    def conversation(self) -> list[dict[str, str]]:
        """Messages with plain text content, as chat templates expect them.

        Raises:
            UnsupportedFieldError: a part is not text.
        """
        return [
            {"role": "system" if m.role == "developer" else m.role, "content": _text(m, i)}
            for i, m in enumerate(self.messages)
        ]

    def num_logprobs(self) -> int | None:
        """What `SamplingParams.logprobs` takes."""
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequestError("top_logprobs goes with logprobs=true only.", param="top_logprobs")
        if self.top_logprobs is not None and not 0 <= self.top_logprobs <= 20:
            raise InvalidRequestError(
                f"top_logprobs is {self.top_logprobs}; 0 to 20 are allowed.", param="top_logprobs"
            )
        return (self.top_logprobs or 0) if self.logprobs else None

    def _max_tokens(self) -> int | None:
        both = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(both) > 1:
            raise InvalidRequestError(
                "max_tokens and max_completion_tokens mean the same and differ; send one.",
                param="max_completion_tokens",
            )
        return both.pop() if both else None


class CompletionBody(GenerationBody):
    """Body of POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    best_of: int | None = Field(None, description="Make this many candidates, 1 to 4, and send the n likeliest.")
    logprobs: int | None = Field(None, description="Report each token's log-probability and this many others, 0 to 5.")

    def num_candidates(self) -> int:
        """What `GenerationRequest.best_of` takes."""
        n, best_of = self.n or 1, self.best_of
        if best_of is None:
            return 0
        if not n <= best_of <= MAX_ANSWERS:
            raise InvalidRequestError(f"best_of is {best_of}; it must be n ({n}) to {MAX_ANSWERS}.", param="best_of")
        if self.stream and best_of > n:
            raise InvalidRequestError("best_of picks whole answers, so it does not go with stream.", param="best_of")
        return best_of

    def single_prompt(self) -> str | list[int]:
        """The prompt: text or token ids.

        Raises:
            UnsupportedFieldError: there are several.
        """
        prompt = self.prompt
        if isinstance(prompt, str):
            return prompt
        if not prompt:
            raise InvalidRequestError("prompt is empty.", param="prompt")
        if all(isinstance(token_id, int) for token_id in prompt):
            return [token_id for token_id in prompt if isinstance(token_id, int)]
        if len(prompt) > 1:
            raise UnsupportedFieldError(
                f"prompt has {len(prompt)} prompts; this server takes one a request.", param="prompt"
            )
        only = prompt[0]
        return only if isinstance(only, str | list) else [only]

    def num_logprobs(self) -> int | None:
        """What `SamplingParams.logprobs` takes."""
        if self.logprobs is not None and not 0 <= self.logprobs <= 5:
            raise InvalidRequestError(f"logprobs is {self.logprobs}; 0 to 5 are allowed.", param="logprobs")
        return self.logprobs


def _extras(body: BaseModel, prefix: str = "") -> list[tuple[str, Any]]:
    """(path, value) of every field that no schema lists, in this object and the ones within."""
    found = [(prefix + name, value) for name, value in (body.model_extra or {}).items()]
    for name in type(body).model_fields:
        value = getattr(body, name)
        for i, part in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(part, BaseModel):
                index = f"{i}." if isinstance(value, list) else ""
                found += _extras(part, f"{prefix}{name}.{index}")
    return found


def _text(message: Message, index: int) -> str:
    if isinstance(message.content, str):
        return message.content
    parts = []
    for i, part in enumerate(message.content or []):
        path = f"messages.{index}.content.{i}"
        if part.type != "text":
            raise UnsupportedFieldError(
                f"{path} is of type {part.type[:40]!r}; this model takes text only.", param=f"{path}.type"
            )
        if part.text is None:
            raise InvalidRequestError(f"{path} has no text.", param=f"{path}.text")
        parts.append(part.text)
    return "\n".join(parts)
