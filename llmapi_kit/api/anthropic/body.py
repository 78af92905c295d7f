"""Bodies of POST /v1/messages and /v1/messages/count_tokens.

Source: Anthropic API reference, "Messages" and "Count tokens".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from llmapi_kit.api.anthropic.blocks import MessageParam, TextBlock, check_block, check_text, conversation, text_of
from llmapi_kit.api.anthropic.errors import NO_THREADS
from llmapi_kit.api.openai.neutral_values import ANYTHING
from llmapi_kit.api.openai.request_body import StrictModel
from llmapi_kit.api.openai.tool_use import MAX_TOOLS, OfferedFunction, ToolChoice, check_tools, tool_use
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.errors import InvalidRequestError, UnsupportedFieldError
from llmapi_kit.sampling.constraints import Constraint
from llmapi_kit.sampling.parameters import SamplingParams, with_off_values

# What chat completions call otherwise.
NAMES: Mapping[str, str] = {
    "stop": "stop_sequences",
    "reasoning_effort": "thinking",
    "continue_final_message": "messages",
    "messages.": "messages",  # they are others there: results of calls are messages of their own
}
# What asks for nothing: all thinking of the past is kept here.
KEPT_THINKING = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
# How much thinking a budget of tokens stands for, up to which one.
BUDGETS = ((4096, "low"), (16384, "medium"))
MIN_BUDGET = 1024
# Anthropic's default is high, so that says nothing.
EFFORTS: Mapping[str, str | None] = {"high": None, "max": "xhigh"}
_CACHE = {
    f"{path}cache_control": (ANYTHING,)
    for path in ("", "system.", "tools.", "messages.content.", "messages.content.content.")
}


class ToolDefinition(StrictModel):
    """A tool the model may call."""

    name: str = Field(json_schema_extra={"pattern": "^[a-zA-Z0-9_-]{1,64}$"})
    type: str | None = Field(None, description="custom, or left out; no tools run here.")
    description: str | None = None
    input_schema: dict[str, Any] | None = Field(None, description="A JSON schema.")
    strict: bool | None = Field(None, description="Keep the input to the schema even where the call is free.")


class ToolChoiceParam(StrictModel):
    """Whether and what the model has to call."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = Field(None, description="With type tool: which.")
    disable_parallel_tool_use: bool | None = Field(None, description="True: the answer ends after its first call.")


class ThinkingParam(StrictModel):
    """Whether the model thinks first."""

    type: Literal["enabled", "disabled", "adaptive"] = Field(description="adaptive: as the model likes.")
    budget_tokens: int | None = Field(
        None,
        description="With enabled, about how much: the template is told low up to 4096, medium up to 16384, else high.",
    )
    display: Literal["summarized", "omitted"] | None = Field(
        None, description="omitted: blocks of thinking come without their text. There are no summaries."
    )


class OutputFormat(StrictModel):
    """What the answer looks like."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(StrictModel):
    """How the answer is made."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = Field(
        None, description="How long to think, for models whose template takes it; high is as if left out."
    )
    format: OutputFormat | None = Field(None, description="A JSON schema that the answer matches.")


class RequestMetadata(StrictModel):
    """About a request."""

    user_id: str | None = Field(None, description="A label; it changes nothing.")


class QuestionBody(StrictModel):
    """What is asked: the fields of a message that decide on its prompt."""

    own_neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **_CACHE,
        "messages.content.caller": ({"type": "direct"},),
        "system.citations": ([],),
        "messages.content.citations": ([],),
        "messages.content.content.citations": ([],),
        "betas": (ANYTHING,),  # of the client, which sends them as a header too
        "context_management": ({}, {"edits": []}, KEPT_THINKING),
        "mcp_servers": ([],),
        "speed": ("standard",),
        "tools.allowed_callers": (["direct"],),
        "tools.defer_loading": (False,),
        "tools.eager_input_streaming": (ANYTHING,),  # pieces come as they are made
    }

    model: str | None = Field(None, description="A name from /v1/models; left out, the server's default.")
    messages: Annotated[list[MessageParam], Field(min_length=1)]
    system: str | list[TextBlock] | None = Field(None, description="What the system says first.")
    tools: Annotated[list[ToolDefinition], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoiceParam | None = None
    thinking: ThinkingParam | None = None
    output_config: OutputConfig | None = None

    def check(self) -> None:
        """Raise for fields that are refused, or do not go together.

        Raises:
            InvalidRequestError: it names the field.
        """
        for index, message in enumerate(self.messages):
            for number, block in enumerate(message.content if isinstance(message.content, list) else ()):
                check_block(block, message.role, f"messages.{index}.content.{number}")
        for index, part in enumerate(self.system if isinstance(self.system, list) else ()):
            check_text(part, f"system.{index}")
        for index, tool in enumerate(self.tools or ()):
            if tool.type not in (None, "custom"):
                raise UnsupportedFieldError(
                    f"tools.{index} is of type {tool.type[:40]!r}; this server runs no tools itself and knows none by "
                    "type. Define it with an input_schema.",
                    param=f"tools.{index}.type",
                )
        if (self.model_extra or {}).get("thread") is not None:
            raise UnsupportedFieldError(
                "This server holds no conversation between two messages. Send all of it, and no thread.",
                param="thread",
                code=NO_THREADS,
            )
        self.refuse_unsupported()
        self._check_choice()
        self._check_thinking()
        if (message := self.messages[-1]).role == "assistant" and not _is_only_said(message):
            raise InvalidRequestError(
                "The last message is the assistant's, to be gone on with, and has other blocks than text, or none. "
                "What a call of it gave belongs in a user's message after it.",
                param=f"messages.{len(self.messages) - 1}",
            )

    def request(self, sampling: SamplingParams, cache_salt: str) -> GenerationRequest:
        """What the engine is asked, with names of fields as chat completions have them."""
        is_continuing = self.messages[-1].role == "assistant"
        is_parallel = not (self.tool_choice and self.tool_choice.disable_parallel_tool_use)
        return GenerationRequest(
            messages=conversation(text_of(self.system), self.messages),
            sampling=sampling,
            tools=tool_use(self._functions(), self._choice(), is_parallel=is_parallel),
            reasoning_effort=self._effort(),
            is_continuing=is_continuing,
            has_generation_prompt=not is_continuing,
            ends_at_context=True,
            cache_salt=cache_salt,
        )

    def _check_choice(self) -> None:
        choice = self.tool_choice
        if choice is not None and (choice.type == "tool") != (choice.name is not None):
            raise InvalidRequestError("tool_choice has a name with type tool, and only then.", param="tool_choice")
        for index, tool in enumerate(self.tools or ()):
            if tool.input_schema is None:
                raise InvalidRequestError(f"tools.{index} has no input_schema.", param=f"tools.{index}.input_schema")
        check_tools(self._functions(), self._choice())

    def _check_thinking(self) -> None:
        thinking = self.thinking
        if thinking is None:
            return
        if (thinking.type == "enabled") != (thinking.budget_tokens is not None):
            raise InvalidRequestError(
                "thinking has budget_tokens with type enabled, and only then.", param="thinking.budget_tokens"
            )
        if thinking.budget_tokens is not None and thinking.budget_tokens < MIN_BUDGET:
            raise InvalidRequestError(
                f"thinking.budget_tokens is {thinking.budget_tokens}; it must be at least {MIN_BUDGET}.",
                param="thinking.budget_tokens",
            )

    def _functions(self) -> list[OfferedFunction]:
        functions = []
        for index, tool in enumerate(self.tools or ()):
            given = {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.input_schema,
                "strict": tool.strict,
            }
            definition = {name: value for name, value in given.items() if value is not None}
            functions.append(OfferedFunction(definition, f"tools.{index}.name", f"tools.{index}.input_schema"))
        return functions

    def _choice(self) -> ToolChoice:
        choice = self.tool_choice
        if choice is None or choice.type == "auto":
            return ToolChoice()
        if choice.type == "none":
            return ToolChoice("none")
        return ToolChoice("required", choice.name or "")

    def _effort(self) -> str | None:
        if self.thinking is not None and self.thinking.type == "disabled":
            return "none"
        effort = self.output_config.effort if self.output_config else None
        if effort is not None and EFFORTS.get(effort, effort) is not None:
            return EFFORTS.get(effort, effort)
        budget = self.thinking.budget_tokens if self.thinking else None
        if budget is None:
            return None
        return next((name for most, name in BUDGETS if budget <= most), "high")

    def constraint(self) -> Constraint | None:
        """What the answer must match."""
        wanted = self.output_config.format if self.output_config else None
        if wanted is None:
            return None
        return Constraint("json_schema", json.dumps(wanted.schema_), "output_config.format")


class CountTokensBody(QuestionBody):
    """Body of POST /v1/messages/count_tokens."""


class MessagesBody(QuestionBody):
    """Body of POST /v1/messages."""

    max_tokens: int = Field(
        description="At most this many new tokens, thinking included; more than the context has room for ends there.",
        json_schema_extra={"minimum": 1},
    )
    stream: bool | None = Field(None, description="Send events as they come.")
    stop_sequences: list[str] | None = Field(
        None, description="Up to 16 texts that end the answer; empty ones are none."
    )
    temperature: float | None = Field(
        None,
        description="0 is greedy. Default: the model's own, else 1.",
        json_schema_extra={"minimum": 0, "maximum": 2},
    )
    top_k: int | None = Field(
        None, description="Keep the k most likely tokens; 0 and -1 keep all.", json_schema_extra={"minimum": -1}
    )
    top_p: float | None = Field(
        None,
        description="Keep the likeliest tokens that make up this probability; 0 is greedy.",
        json_schema_extra={"minimum": 0, "maximum": 1},
    )
    metadata: RequestMetadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = Field(None, description="There is one tier here.")

    def check(self) -> None:
        """See `QuestionBody`."""
        super().check()
        if self.max_tokens < 1:
            raise InvalidRequestError(f"max_tokens is {self.max_tokens}; it must be at least 1.", param="max_tokens")

    def sampling(self, defaults: Mapping[str, float]) -> SamplingParams:
        """The sampling parameters; what the body leaves out comes from `defaults`, the model's own.

        Raises:
            InvalidRequestError: a value is out of range.
        """
        names = ("temperature", "top_k", "top_p")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        values = with_off_values({**defaults, **given, "stop": self.stop_sequences or ()})
        return SamplingParams(**values, max_tokens=self.max_tokens, constraint=self.constraint())


def _is_only_said(message: MessageParam) -> bool:
    """Whether a message is text and nothing else."""
    content = message.content
    return bool(content) and (isinstance(content, str) or all(block.type == "text" for block in content))
