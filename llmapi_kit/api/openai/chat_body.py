"""Body of POST /v1/chat/completions.

Source: OpenAI API reference, "Chat"; fields beyond it are those of vLLM and transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from llmapi_kit.api.openai.metadata import Metadata, check_metadata
from llmapi_kit.api.openai.request_body import NUM_TOKENS, GenerationBody, StrictModel
from llmapi_kit.api.openai.strict_schema import check_strict_schema
from llmapi_kit.api.openai.tool_use import MAX_TOOLS, OfferedFunction, ToolChoice, check_tools, tool_use
from llmapi_kit.engines.base import GenerationRequest, ToolUse
from llmapi_kit.errors import InvalidRequestError, UnsupportedFieldError
from llmapi_kit.sampling.constraints import Constraint

DETAILS = ("auto", "low", "high", "original")
PART_KINDS = {"assistant": ("text", "refusal"), "user": ("text", "image_url"), "tool": ("text", "image_url")}


class ImageUrl(StrictModel):
    """A picture."""

    url: str = Field(description="A data: URL, or one of a host that the server's owner has listed in image_hosts.")
    detail: str | None = Field(
        None,
        description="low: at most 512 pixels a side, and no tiles where the model can do without; else as it is.",
        json_schema_extra={"enum": [*DETAILS, None]},
    )


class ContentPart(StrictModel):
    """A part of a message's content."""

    type: str
    text: str | None = None
    refusal: str | None = Field(None, description="Of an assistant's part of type refusal.")
    image_url: ImageUrl | None = Field(None, description="Of a part of type image_url, for models that see.")

    @field_validator("image_url", mode="before")
    @classmethod
    def _of_address(cls, value: object) -> object:
        """Some clients send the address alone."""
        return {"url": value} if isinstance(value, str) else value


class CalledFunction(StrictModel):
    """What a tool call calls."""

    name: str
    arguments: str | dict[str, Any] = Field(description="A JSON object, as text or as it is.")


class ToolCall(StrictModel):
    """A call in an assistant's message of the past."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(StrictModel):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = Field(None, description="Of who speaks, or of a tool's function; the template may use it.")
    refusal: str | None = Field(None, description="Of an assistant's message, in place of content.")
    tool_calls: list[ToolCall] | None = Field(None, description="Of an assistant's message.")
    tool_call_id: str | None = Field(None, description="Of a tool's message: which call it answers.")
    reasoning_content: str | None = Field(None, description="Of an assistant's message; the template may use it.")
    reasoning: str | None = Field(None, description="Another name of reasoning_content.")


class Function(StrictModel):
    """A function the model may call."""

    name: str = Field(json_schema_extra={"pattern": "^[a-zA-Z0-9_-]{1,64}$"})
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="A JSON schema.")
    strict: bool | None = Field(None, description="Keep the arguments to the schema even where the call is free.")


class Tool(StrictModel):
    """A tool the model may call."""

    type: Literal["function"]
    function: Function


class NamedFunction(StrictModel):
    """The name of a function."""

    name: str


class NamedTool(StrictModel):
    """A tool the model has to call."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(StrictModel):
    """A named JSON schema."""

    name: str
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = Field(None, description="The answer matches the schema either way.")


class ResponseFormat(StrictModel):
    """What the answer looks like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatBody(GenerationBody):
    """Body of POST /v1/chat/completions."""

    own_neutral = {"add_special_tokens": (False,), "best_of": (1,)}  # noqa: RUF012 - declared as ClassVar in StrictModel
    _limit_names = ("max_tokens", "max_completion_tokens", "n_predict")

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: int | None = Field(
        None,
        description="OpenAI's newer name of max_tokens; of both, the smaller counts.",
        json_schema_extra=NUM_TOKENS,
    )
    logprobs: bool | None = Field(None, description="Report the log-probability of each token.")
    top_logprobs: int | None = Field(
        None,
        description="With logprobs: how many alternatives, 0 to 20.",
        json_schema_extra={"minimum": 0, "maximum": 20},
    )
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = Field(None, description="False: the answer ends after its first call.")
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = Field(
        None, description="For models whose template takes it; on others only none and minimal."
    )
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="Further variables of the chat template.")
    add_generation_prompt: bool | None = Field(None, description="End the prompt with what begins an answer.")
    continue_final_message: bool | None = Field(None, description="Go on with the last message, the assistant's.")
    echo: bool | None = Field(None, description="With continue_final_message: begin the answer with that message.")
    safety_identifier: str | None = Field(None, description="As user.")
    prompt_cache_key: str | None = Field(None, description="Prompts are cached by their own beginning and your key.")
    store: bool | None = Field(
        None,
        description="Keep the finished answer and its messages in the server's database: /v1/chat/completions gives "
        "them to the same key.",
    )
    service_tier: Literal["auto", "default", "flex", "priority", "scale"] | None = Field(
        None, description="There is one tier here: the answer says default."
    )
    metadata: Metadata | None = Field(None, description="With store: your own words about it, to find it by.")

    def check(self) -> None:
        """See `GenerationBody`; the types of content parts first, as what is in a part follows from its type."""
        for index, message in enumerate(self.messages):
            check_message(message, f"messages.{index}")
        super().check()
        check_tools(self._functions(), self._choice())
        if self.metadata and not self.store:
            raise InvalidRequestError(
                "metadata goes with store=true only; set that, or leave metadata out.", param="metadata"
            )
        check_metadata(self.metadata or {})
        last = self.messages[-1]
        if self.continue_final_message:
            if self.add_generation_prompt:
                raise InvalidRequestError(
                    "add_generation_prompt begins a new message, so it does not go with continue_final_message.",
                    param="add_generation_prompt",
                )
            if last.role != "assistant" or not last.content:
                raise InvalidRequestError(
                    "continue_final_message needs a last message of the assistant, with content.",
                    param="continue_final_message",
                )
        elif self.echo:
            raise InvalidRequestError("echo goes with continue_final_message=true only.", param="echo")

    def request(self, defaults: Mapping[str, float], cache_salt: str) -> GenerationRequest:
        """What the engine is asked.

        Raises:
            InvalidRequestError: a value is out of range.
        """
        return GenerationRequest(
            messages=self.conversation(),
            sampling=self.sampling(defaults, logprobs=self._num_logprobs()),
            n=self.n or 1,
            num_beams=self.num_beams or 1,
            length_penalty=1.0 if self.length_penalty is None else self.length_penalty,
            echo=bool(self.echo),
            tools=self._tool_use(),
            reasoning_effort=self.reasoning_effort,
            template_options=self.chat_template_kwargs or {},
            is_continuing=bool(self.continue_final_message),
            has_generation_prompt=not self.continue_final_message and self.add_generation_prompt is not False,
            cache_salt=self._salted(cache_salt),
        )

    def conversation(self) -> list[dict[str, Any]]:
        """The messages with plain text content, as `GenerationRequest` takes them."""
        return [plain_message(message) for message in self.messages]

    def _tool_use(self) -> ToolUse | None:
        return tool_use(self._functions(), self._choice(), is_parallel=self.parallel_tool_calls is not False)

    def _functions(self) -> list[OfferedFunction]:
        return [
            OfferedFunction(
                tool.function.model_dump(exclude_none=True),
                f"tools.{index}.function.name",
                f"tools.{index}.function.parameters",
            )
            for index, tool in enumerate(self.tools or ())
        ]

    def _choice(self) -> ToolChoice:
        choice = self.tool_choice
        if isinstance(choice, NamedTool):
            return ToolChoice("required", choice.function.name)
        return ToolChoice(choice or "auto")

    def _constraints(self) -> list[Constraint]:
        found = super()._constraints()
        wanted = self.response_format
        if wanted is not None and wanted.type != "json_schema" and wanted.json_schema is not None:
            raise InvalidRequestError(
                f"response_format has a json_schema, but its type is {wanted.type}. Set type to json_schema, or leave "
                "the schema out.",
                param="response_format.json_schema",
            )
        if wanted is not None and wanted.type == "json_object":
            found.append(Constraint("json_object", "", "response_format"))
        if wanted is not None and wanted.type == "json_schema":
            if wanted.json_schema is None or wanted.json_schema.schema_ is None:
                raise InvalidRequestError(
                    "response_format of type json_schema needs json_schema.schema.",
                    param="response_format.json_schema.schema",
                )
            if wanted.json_schema.strict:
                check_strict_schema(wanted.json_schema.schema_, "response_format.json_schema.schema")
            found.append(Constraint("json_schema", json.dumps(wanted.json_schema.schema_), "response_format"))
        return found

    def _num_logprobs(self) -> int | None:
        """What `SamplingParams.logprobs` takes."""
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequestError("top_logprobs goes with logprobs=true only.", param="top_logprobs")
        if self.top_logprobs is not None and not 0 <= self.top_logprobs <= 20:
            raise InvalidRequestError(
                f"top_logprobs is {self.top_logprobs}; 0 to 20 are allowed.", param="top_logprobs"
            )
        return (self.top_logprobs or 0) if self.logprobs else None


def check_message(message: Message, path: str) -> None:
    """Raise for what does not go with the message's role."""
    is_spoken = message.content is not None or message.role == "tool"
    if not is_spoken and not (message.role == "assistant" and (message.tool_calls or message.refusal)):
        raise InvalidRequestError(f"{path} has no content; every message needs it.", param=f"{path}.content")
    if message.tool_calls and message.role != "assistant":
        raise InvalidRequestError(
            f"{path} has tool_calls; only the assistant's messages have.", param=f"{path}.tool_calls"
        )
    for name in ("reasoning_content", "reasoning", "refusal"):
        if getattr(message, name) and message.role != "assistant":
            raise InvalidRequestError(f"{path} has {name}; only the assistant's messages have.", param=f"{path}.{name}")
    if (message.role == "tool") != (message.tool_call_id is not None):
        says = (
            "needs tool_call_id" if message.role == "tool" else "has tool_call_id, which goes with the role tool only"
        )
        raise InvalidRequestError(f"{path} {says}.", param=f"{path}.tool_call_id")
    for index, part in enumerate(message.content if isinstance(message.content, list) else ()):
        part_path = f"{path}.content.{index}"
        kinds = PART_KINDS.get(message.role, ("text",))
        if part.type not in kinds:
            raise UnsupportedFieldError(
                f"{part_path} is of type {part.type[:40]!r}; messages of the role {message.role} take "
                f"{' or '.join(kinds)} only.",
                param=f"{part_path}.type",
            )
        if getattr(part, part.type) is None:
            raise InvalidRequestError(f"{part_path} has no {part.type}.", param=f"{part_path}.{part.type}")
        if part.image_url is not None and part.image_url.detail not in (None, *DETAILS):
            param = f"{part_path}.image_url.detail"
            raise InvalidRequestError(
                f"{param} is {part.image_url.detail[:40]!r}; it is one of {', '.join(DETAILS)}.", param=param
            )


def plain_message(message: Message) -> dict[str, Any]:
    """A message as chat templates expect it, with text in place of parts."""
    content: Any = message.content
    if isinstance(content, list) and any(part.image_url for part in content):
        content = [part.model_dump(include={"type", part.type}, exclude_none=True) for part in content]
    elif isinstance(content, list):
        content = "\n".join(part.text or part.refusal or "" for part in content)
    elif content is None and not message.tool_calls:
        content = message.refusal or ""
    plain = {name: value for name in ("name", "tool_call_id") if (value := getattr(message, name)) is not None}
    if reasoning := message.reasoning_content or message.reasoning:
        plain["reasoning_content"] = reasoning
    if message.tool_calls:
        plain["tool_calls"] = [_plain_call(call) for call in message.tool_calls]
    return {"role": "system" if message.role == "developer" else message.role, "content": content, **plain}


def _plain_call(call: ToolCall) -> dict[str, Any]:
    arguments = call.function.arguments
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"id": call.id, "type": call.type, "function": {"name": call.function.name, "arguments": text}}
