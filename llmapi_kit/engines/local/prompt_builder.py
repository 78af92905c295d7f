"""From a request to its prompt: template, tools, reasoning options, fill-in, and what the answer must look like.

Knows nothing of queues or slots. Runs in worker threads, and on the event loop for short prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmapi_kit.dialects import Dialect, ReplyParser, messages_for_template
from llmapi_kit.engines.base import (
    LEAST_EFFORTS,
    THINKING_SWITCHES,
    GenerationRequest,
    ToolUse,
    switches_thinking_off,
)
from llmapi_kit.engines.image_parts import image_parts, refusal
from llmapi_kit.engines.local.text_codec import TextCodec
from llmapi_kit.errors import InvalidRequestError, UnsupportedFieldError
from llmapi_kit.sampling.constraints import Constraint
from llmapi_kit.sampling.encoding_cache import EncodingCache

if TYPE_CHECKING:
    from llmapi_kit.engines.local.prompt_pictures import Pins, PromptPictures

# What the kit or transformers passes to a template itself.
OWN_OPTIONS = frozenset(
    (
        "messages",
        "tools",
        "documents",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "chat_template",
        "conversation",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "sanitize_control_tokens",
        "tokenizer_kwargs",
    )
)
# What transformers gives to every template.
PROVIDED = frozenset(
    ("bos_token", "eos_token", "unk_token", "pad_token", "raise_exception", "strftime_now", "namespace", "range")
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is computed before the answer, and how the answer is read.

    Attributes:
        ids: token ids, at least one.
        echo: the prompt's text, where it is to be given out.
        parsers: one an answer, for reasoning and tool calls; empty where the text is the answer.
        constraint: what the answer must match, tool calls and reasoning considered; None for what the request says.
        pictures: keeps the pictures in it.
        num_image_tokens: how many of the ids are pictures'.
        whole: (start, end) of ids that have to be computed in one step.
    """

    ids: list[int]
    echo: str | None = None
    parsers: Sequence[ReplyParser] = ()
    constraint: Constraint | None = None
    pictures: Pins | None = None
    num_image_tokens: int = 0
    whole: Sequence[tuple[int, int]] = ()


class PromptBuilder:
    """Builds the prompts of one model.

    Args:
        codec: its tokenizer and chat template.
        dialect: how it writes reasoning and tool calls.
        vocab_size: ids go from 0 to one less.
        is_cache_per_key: remember tokenized conversations apart by `GenerationRequest.cache_salt`.
        prompt_pictures: of a model that sees.
    """

    def __init__(
        self,
        codec: TextCodec,
        dialect: Dialect,
        vocab_size: int,
        *,
        is_cache_per_key: bool = True,
        prompt_pictures: PromptPictures | None = None,
    ) -> None:
        self._prompt_pictures = prompt_pictures
        self._codec = codec
        self._dialect = dialect
        self._vocab_size = vocab_size
        self._is_cache_per_key = is_cache_per_key
        self._encodings = EncodingCache(self._encode, codec.boundaries)

    def build(self, request: GenerationRequest) -> Prompt:
        """The prompt of a request.

        Raises:
            InvalidRequestError: something in it can't be used; the error names it.
        """
        prompt = self._chat(request) if request.messages is not None else self._text(request)
        if not prompt.ids:
            raise InvalidRequestError("The prompt is empty; it must have at least one token.", param="prompt")
        self.check_ids("logit_bias", request.sampling.logit_bias)
        self.check_ids("stop_token_ids", request.sampling.stop_token_ids)
        return prompt

    def check_ids(self, param: str, ids: Iterable[int]) -> None:
        """Raise `InvalidRequestError` for the first id that is not in the vocabulary."""
        wrong = [token_id for token_id in ids if not 0 <= token_id < self._vocab_size]
        if wrong:
            raise InvalidRequestError(
                f"{param} has token id {wrong[0]}; this model's ids go from 0 to {self._vocab_size - 1}.", param=param
            )

    def _text(self, request: GenerationRequest) -> Prompt:
        prompt = request.prompt
        if request.suffix is not None:
            if not isinstance(prompt, str):
                raise InvalidRequestError("suffix goes with a prompt of text only.", param="suffix")
            return Prompt(self._codec.encode_infill(prompt, request.suffix))
        if isinstance(prompt, str):
            ids = self._codec.encode(prompt, add_special_tokens=True)
        else:
            ids = list(prompt or ())
            self.check_ids("prompt", ids)
        if not request.echo:
            return Prompt(ids)
        return Prompt(ids, echo=prompt if isinstance(prompt, str) else self._codec.decode(ids))

    def _chat(self, request: GenerationRequest) -> Prompt:
        options = self._options(request)
        messages = messages_for_template(request.messages or (), self._dialect.history)
        images = image_parts(messages)
        if self._prompt_pictures is not None:
            messages = self._prompt_pictures.for_template(messages)
        elif images:
            raise refusal(images[0].param)
        text = self._codec.render_chat(messages, options)
        salt = request.cache_salt if self._is_cache_per_key else ""
        if self._prompt_pictures is None or not images:
            return self._answered(request, Prompt(self._encodings.encode(text, salt)), text)
        placed = self._prompt_pictures.encode(text, images)
        ids = self._prompt_pictures.place(self._encodings.encode(placed.text, salt), placed)
        num_image_tokens = sum(sum(image.seen.runs) for image in placed.images)
        prompt = Prompt(
            ids, pictures=placed.pins, num_image_tokens=num_image_tokens, whole=self._prompt_pictures.whole(ids)
        )
        return self._answered(request, prompt, text)

    def _answered(self, request: GenerationRequest, prompt: Prompt, text: str) -> Prompt:
        """A prompt with how its answer is read."""
        echo = _last_text(request) if request.echo else None
        tools = request.tools
        if self._dialect.reasoning is None and tools is None:
            return replace(prompt, echo=echo)
        starts_in_reasoning = self._dialect.starts_in_reasoning(text)
        parsers = [
            self._dialect.parser(
                tools=tools.tools if tools else (),
                parses_calls=tools is not None,
                starts_in_reasoning=starts_in_reasoning,
            )
            for _ in range(request.n)
        ]
        constraint = self._constraint(tools, request.sampling.constraint, starts_in_reasoning)
        return replace(prompt, echo=echo, parsers=parsers, constraint=constraint)

    def _encode(self, text: str) -> list[int]:
        return self._codec.encode(text, add_special_tokens=False)

    def _options(self, request: GenerationRequest) -> dict[str, Any]:
        """Options of `apply_chat_template`."""
        options = {**self._template_options(request.template_options), **self._reasoning(request.reasoning_effort)}
        options["add_generation_prompt"] = request.has_generation_prompt and not request.is_continuing
        if request.is_continuing:
            options["continue_final_message"] = True
        if request.tools is not None:
            if "tools" not in self._codec.template_variables or not self._dialect.has_calls:
                raise UnsupportedFieldError(
                    "This model's chat template has no place for tools, or writes calls in a way that is not known "
                    "here. Leave tools out, or load a model trained to call tools.",
                    param="tools",
                )
            options["tools"] = list(request.tools.tools)
        return options

    def _template_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        own = self._codec.template_variables - OWN_OPTIONS - PROVIDED
        for name, value in given.items():
            if name not in own and not switches_thinking_off(name, value):
                names = f"Those it reads are: {', '.join(sorted(own))}." if own else "It reads none."
                raise UnsupportedFieldError(
                    f"chat_template_kwargs has {name[:80]!r}, which this model's chat template does not read. {names}",
                    param=f"chat_template_kwargs.{name[:80]}",
                )
        return {name: value for name, value in given.items() if name in own}

    def _reasoning(self, effort: str | None) -> dict[str, Any]:
        """The template's variables for an effort. Some templates know degrees, some an on and off."""
        if effort is None:
            return {}
        variables = self._codec.template_variables
        if "reasoning_effort" in variables:
            return {"reasoning_effort": effort}
        for switch in THINKING_SWITCHES:
            if switch in variables:
                return {switch: effort != "none"}
        if effort in LEAST_EFFORTS and self._dialect.reasoning is None:
            return {}
        raise UnsupportedFieldError(
            "This model's chat template has no setting for how long to think; leave reasoning_effort out.",
            param="reasoning_effort",
        )

    def _constraint(
        self, tools: ToolUse | None, answer: Constraint | None, starts_in_reasoning: bool
    ) -> Constraint | None:
        """What the answer must match, so that a call that has to come does, and strict ones follow their schema."""
        added_tokens = self._codec.added_tokens
        if tools is not None and (tools.is_required or tools.forced):
            return self._dialect.call_constraint(
                tools.tools,
                forced=tools.forced or None,
                parallel=tools.is_parallel,
                added_tokens=added_tokens,
                starts_in_reasoning=starts_in_reasoning,
            )
        if answer is not None:
            return self._dialect.answer_constraint(
                answer,
                tools.tools if tools else (),
                parallel=tools is None or tools.is_parallel,
                added_tokens=added_tokens,
                starts_in_reasoning=starts_in_reasoning,
            )
        if tools is None:
            return None
        return self._dialect.strict_constraint(
            tools.tools, added_tokens=added_tokens, starts_in_reasoning=starts_in_reasoning
        )


def _last_text(request: GenerationRequest) -> str:
    return str((request.messages or ({},))[-1].get("content") or "")
