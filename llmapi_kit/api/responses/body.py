"""Bodies of POST /v1/responses and /v1/responses/input_tokens.

Source: OpenAI API reference, "Responses".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from llmapi_kit.api.openai.metadata import Metadata, check_metadata
from llmapi_kit.api.openai.neutral_values import ANYTHING
from llmapi_kit.api.openai.request_body import RequestBody, StrictModel
from llmapi_kit.api.openai.strict_schema import check_strict_schema
from llmapi_kit.api.openai.tool_use import MAX_TOOLS, OfferedFunction, ToolChoice, check_tools, tool_use
from llmapi_kit.api.responses.items import InputItem, check_item
from llmapi_kit.api.responses.tools import (
    ChosenTool,
    FunctionTool,
    allowed_functions,
    check_tool_types,
    read_choice,
)
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.errors import InvalidRequestError, UnsupportedFieldError
from llmapi_kit.sampling.constraints import Constraint
from llmapi_kit.sampling.parameters import SamplingParams, with_off_values

LOGPROBS = "message.output_text.logprobs"
ENCRYPTED = "reasoning.encrypted_content"
# Of these, nothing is there to be included: no such tools run here, and pictures are listed with their URL in any case.
INCLUDES_NOTHING = (
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
)
# What chat completions call otherwise.
NAMES: Mapping[str, str] = {
    "logprobs": "top_logprobs",
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "messages.": "input",  # items are messages only in part
    "reasoning_effort": "reasoning.effort",
}


class TextFormat(StrictModel):
    """What the answer looks like."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = Field(None, description="The answer matches the schema either way.")


class TextConfig(StrictModel):
    """How the answer is written."""

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = Field(None, description="There is one.")


class ReasoningConfig(StrictModel):
    """How the model thinks first."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = Field(
        None, description="For models whose template takes it; on others only none and minimal."
    )
    summary: Literal["auto"] | None = Field(None, description="There is none: reasoning comes whole, as content.")


class ResponseStreamOptions(StrictModel):
    """Options of a stream."""

    include_obfuscation: Literal[False] | None = Field(None, description="Events are not padded.")


class QuestionBody(RequestBody):
    """What is asked: the fields of a response that decide on its prompt. Body of POST /v1/responses/input_tokens."""

    own_neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "context_management": ([],),
        "image": ({"context_compression": "auto"},),
        "input.content.annotations": (ANYTHING,),
        "input.content.logprobs": (ANYTHING,),
        "input.content.parsed": (ANYTHING,),
        "input.content.prompt_cache_breakpoint": (ANYTHING,),
        "input.output.prompt_cache_breakpoint": (ANYTHING,),
        "input.parsed_arguments": (ANYTHING,),
        "reasoning.context": ("auto",),
        "reasoning.generate_summary": ("auto",),
        "reasoning.mode": ("standard",),
        "tools.allowed_callers": (["direct"],),
        "tools.async": (False,),
        "tools.defer_loading": (False,),
        "tools.tools.allowed_callers": (["direct"],),
        "tools.tools.async": (False,),
        "tools.tools.defer_loading": (False,),
        "client_metadata": (ANYTHING,),  # labels of codex
    }

    input: str | list[InputItem] | None = Field(None, description="What to answer: a text, or items of a conversation.")
    instructions: str | None = Field(None, description="What the system says first; not carried on to later responses.")
    previous_response_id: str | None = Field(None, description="Go on after this stored response.")
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = Field(None, description="False: the answer ends after its first call.")
    truncation: Literal["auto", "disabled"] | None = Field(
        None, description="auto: forget the oldest items where they do not fit the context."
    )

    def check(self) -> None:
        """Raise for fields that are refused, out of range, or do not go together.

        Raises:
            InvalidRequestError: it names the field.
        """
        for index, item in enumerate(self.items):
            check_item(item, f"input.{index}")
        check_tool_types(self.tools or (), self.tool_choice)
        self.refuse_unsupported()
        if self.input is None and self.previous_response_id is None:
            raise InvalidRequestError("The field input is missing; there is nothing to answer.", param="input")
        check_tools(*self._offer())

    @property
    def items(self) -> Sequence[InputItem]:
        """The input as items."""
        if isinstance(self.input, str):
            return [InputItem.model_validate({"type": "message", "role": "user", "content": self.input})]
        return self.input or ()

    def request(
        self, messages: Sequence[Mapping[str, Any]], defaults: Mapping[str, float], cache_salt: str
    ) -> GenerationRequest:
        """What the engine is asked, with names of fields as chat completions have them.

        Raises:
            InvalidRequestError: a value is out of range.
        """
        return GenerationRequest(
            messages=messages,
            sampling=self.sampling(defaults),
            tools=tool_use(*self._offer(), is_parallel=self.parallel_tool_calls is not False),
            reasoning_effort=self.reasoning.effort if self.reasoning else None,
            cache_salt=cache_salt,
        )

    def sampling(self, defaults: Mapping[str, float]) -> SamplingParams:
        """The sampling parameters; what the body leaves out comes from `defaults`, the model's own."""
        return SamplingParams(**with_off_values(defaults), constraint=self._constraint())

    def _offer(self) -> tuple[list[OfferedFunction], ToolChoice]:
        return allowed_functions(self.tools or (), self.tool_choice), read_choice(self.tool_choice)

    def _constraint(self) -> Constraint | None:
        wanted = self.text.format if self.text else None
        if wanted is None or wanted.type == "text":
            return None
        if wanted.type == "json_object":
            return Constraint("json_object", "", "text.format")
        if wanted.schema_ is None:
            raise InvalidRequestError("text.format of type json_schema needs a schema.", param="text.format.schema")
        if wanted.strict:
            check_strict_schema(wanted.schema_, "text.format.schema")
        return Constraint("json_schema", json.dumps(wanted.schema_), "text.format")


class ResponsesBody(QuestionBody):
    """Body of POST /v1/responses."""

    store: bool | None = Field(None, description="Keep the response and its input; true if left out.")
    background: bool | None = Field(None, description="Answer at once and work on; the response is polled.")
    stream: bool | None = Field(None, description="Send events as they come.")
    stream_options: ResponseStreamOptions | None = None
    temperature: float | None = Field(
        None,
        description="0 is greedy. Default: the model's own, else 1.",
        json_schema_extra={"minimum": 0, "maximum": 2},
    )
    top_p: float | None = Field(
        None,
        description="Keep the likeliest tokens that make up this probability; 0 is greedy.",
        json_schema_extra={"minimum": 0, "maximum": 1},
    )
    max_output_tokens: int | None = Field(
        None, description="At most this many new tokens, reasoning included.", json_schema_extra={"minimum": 1}
    )
    max_tool_calls: int | None = Field(None, description="Of tools that run here; there are none.")
    top_logprobs: int | None = Field(
        None,
        description=f"With {LOGPROBS} in include: how many alternatives, 0 to 20.",
        json_schema_extra={"minimum": 0, "maximum": 20},
    )
    include: list[str] | None = Field(None, description=f"{LOGPROBS}, {ENCRYPTED}.")
    metadata: Metadata | None = Field(None, description="Your own words about it.")
    safety_identifier: str | None = Field(None, description="As user.")
    prompt_cache_key: str | None = Field(None, description="Prompts are cached by their own beginning and your key.")
    service_tier: Literal["auto", "default", "flex", "priority", "scale", "fast"] | None = Field(
        None, description="There is one tier here: the answer says default."
    )

    def check(self) -> None:
        """See `QuestionBody`."""
        super().check()
        if self.max_output_tokens is not None and self.max_output_tokens < 1:
            raise InvalidRequestError(
                f"max_output_tokens is {self.max_output_tokens}; it must be at least 1.", param="max_output_tokens"
            )
        self._check_include()
        if self.stream_options is not None and self.stream_options.include_obfuscation is not None and not self.stream:
            raise InvalidRequestError("stream_options goes with stream=true only.", param="stream_options")
        if self.background and self.store is False:
            raise InvalidRequestError(
                "A response in the background is polled where it is stored: background=true does not go with "
                "store=false.",
                param="background",
            )
        check_metadata(self.metadata or {})

    def sampling(self, defaults: Mapping[str, float]) -> SamplingParams:
        """See `QuestionBody`.

        Raises:
            InvalidRequestError: a value is out of range.
        """
        given = {name: value for name in ("temperature", "top_p") if (value := getattr(self, name)) is not None}
        return SamplingParams(
            **with_off_values({**defaults, **given}),
            max_tokens=self.max_output_tokens,
            logprobs=(self.top_logprobs or 0) if LOGPROBS in (self.include or ()) else None,
            constraint=self._constraint(),
        )

    def _check_include(self) -> None:
        for index, name in enumerate(self.include or ()):
            if name not in (LOGPROBS, ENCRYPTED, *INCLUDES_NOTHING):
                raise UnsupportedFieldError(
                    f"include has {name[:80]!r}; there are {LOGPROBS} and {ENCRYPTED}.", param=f"include.{index}"
                )
        if self.top_logprobs and LOGPROBS not in (self.include or ()):
            raise InvalidRequestError(f"top_logprobs goes with {LOGPROBS} in include only.", param="top_logprobs")
