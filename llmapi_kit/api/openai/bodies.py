"""What chat completions and completions take alike: fields, their checks, and how they become sampling parameters.

A field that no body lists is refused by name, unless its value asks for nothing: null, or the value in `NEUTRAL`. So
no field is ever accepted and ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from llmapi_kit.errors import InvalidRequestError, UnsupportedFieldError
from llmapi_kit.sampling.constraints import Constraint
from llmapi_kit.sampling.parameters import SamplingParams

# Values of unsupported fields that change nothing, so clients that always send them are served.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "functions": ([],),
    "function_call": ("none",),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "verbosity": ("medium",),
    "prompt_cache_retention": ("in_memory",),
    "stream_options.include_obfuscation": (False,),
    "background": ("auto",),
    "moderation": ("auto",),
    "partial_images": (0,),
    "stream": (False,),
}
# What is known elsewhere, and what to use here.
INSTEAD: Mapping[str, str] = {
    "functions": "Use tools.",
    "function_call": "Use tool_choice.",
    "prediction": "It would make nothing faster here.",
}
MAX_ANSWERS = 16
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

    def refuse_unsupported(self) -> None:
        """Raise for the first field that would be ignored, here or in an object within.

        Raises:
            UnsupportedFieldError: it names the field.
        """
        for path, value in _extras(self):
            if value is not None and value not in NEUTRAL.get(path, ()):
                allowed = " or ".join(map(repr, NEUTRAL.get(path, ())))
                hint = f" Only {allowed} is possible." if allowed else " Remove it from the request."
                hint += f" {INSTEAD[path]}" if path in INSTEAD else ""
                raise UnsupportedFieldError(f"The field {path} is not supported by this server.{hint}", param=path)


class StreamOptions(Strict):
    """Options of a stream."""

    include_usage: bool | None = Field(None, description="Send the usage on a last chunk without choices.")


class RequestBody(Strict):
    """What every body has."""

    model: str | None = Field(None, description="A name from /v1/models; left out, the server's default.")
    user: str | None = Field(None, description="Your name for the end user; it changes nothing in the answer.")


class DecodingBody(RequestBody):
    """How tokens are chosen, in the fields that older APIs have too. Ranges are those of `SamplingParams`."""

    max_tokens: int | None = Field(None, description="At most this many new tokens.", json_schema_extra={"minimum": 1})
    temperature: float | None = Field(
        None,
        description="0 is greedy. Default: the model's own, else 1.",
        json_schema_extra={"minimum": 0, "maximum": 2},
    )
    top_k: int | None = Field(
        None,
        description="Keep the k most likely tokens; 0 keeps all.",
        json_schema_extra={"minimum": 0, "maximum": 2**31 - 1},
    )
    top_p: float | None = Field(
        None,
        description="Keep the likeliest tokens that make up this probability.",
        json_schema_extra={"exclusiveMinimum": 0, "maximum": 1},
    )
    repetition_penalty: float | None = Field(
        None,
        description="Divides logits of tokens already seen; 1 is off.",
        json_schema_extra={"exclusiveMinimum": 0, "maximum": 10},
    )
    do_sample: bool | None = Field(None, description="False is greedy, whatever temperature says.")
    num_beams: int | None = Field(
        None,
        description="Above 1: a beam search, which gives the n likeliest whole answers and does not sample, so that "
        "temperature, top_k, top_p, min_p and seed have no say.",
        json_schema_extra={"minimum": 1, "maximum": 16},
    )


class GenerationBody(DecodingBody):
    """Fields that chat completions and completions share."""

    stream: bool | None = Field(None, description="Send pieces as server-sent events.")
    stream_options: StreamOptions | None = None
    n: int | None = Field(
        None,
        description=f"How many answers, 1 to {MAX_ANSWERS}.",
        json_schema_extra={"minimum": 1, "maximum": MAX_ANSWERS},
    )
    min_p: float | None = Field(
        None,
        description="Drop tokens below this share of the likeliest one.",
        json_schema_extra={"minimum": 0, "maximum": 1},
    )
    presence_penalty: float | None = Field(
        None, description="Subtracted once from tokens already made.", json_schema_extra={"minimum": -2, "maximum": 2}
    )
    frequency_penalty: float | None = Field(
        None, description="Subtracted for each time a token was made.", json_schema_extra={"minimum": -2, "maximum": 2}
    )
    logit_bias: dict[str, float] | None = Field(
        None,
        description="Token id to a number added to its logit.",
        json_schema_extra={
            "propertyNames": {"pattern": "^[0-9]{1,4}$"},
            "additionalProperties": {"minimum": -100, "maximum": 100},
        },
    )
    seed: int | None = Field(
        None,
        description="The same request with the same seed gives the same text.",
        json_schema_extra={"minimum": -(2**63), "maximum": 2**63 - 1},
    )
    stop: str | list[str] | None = Field(
        None,
        description="Up to four texts that end the answer.",
        json_schema_extra={"maxItems": 4, "items": {"minLength": 1, "maxLength": 1024}, "minLength": 1},
    )
    stop_token_ids: list[int] | None = Field(None, description="Token ids that end the answer.")
    ignore_eos: bool | None = Field(None, description="Go on past the end of turn, up to max_tokens.")
    guided_json: dict[str, Any] | bool | None = Field(None, description="A JSON schema that the answer matches.")
    guided_regex: str | None = Field(None, description="A regular expression that the whole answer matches.")
    guided_choice: list[str] | None = Field(None, description="The answer is one of these texts.")
    guided_grammar: str | None = Field(None, description="A Lark grammar that the answer matches.")

    def check(self) -> None:
        """Raise for fields that are refused, out of range, or do not go together.

        Raises:
            InvalidRequestError: it names the field.
        """
        self.refuse_unsupported()
        if self.n is not None and not 1 <= self.n <= MAX_ANSWERS:
            raise InvalidRequestError(f"n is {self.n}; it must be 1 to {MAX_ANSWERS}.", param="n")
        if self.stream_options is not None and not self.stream:
            raise InvalidRequestError("stream_options goes with stream=true only.", param="stream_options")
        if self.num_beams is not None and self.num_beams < 1:
            raise InvalidRequestError(f"num_beams is {self.num_beams}; it must be at least 1.", param="num_beams")
        if self.do_sample and (self.has_beams or self.temperature == 0):
            other = "num_beams above 1" if self.has_beams else "temperature=0"
            raise InvalidRequestError(f"do_sample=true does not go with {other}.", param="do_sample")

    @property
    def has_beams(self) -> bool:
        """Whether a beam search is asked for."""
        return (self.num_beams or 1) > 1

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, defaults: Mapping[str, float], *, logprobs: int | None) -> SamplingParams:
        """The sampling parameters; what the body leaves out comes from `defaults`, the model's own."""
        values: dict[str, Any] = dict(defaults)
        values |= {name: value for name in SAMPLING_FIELDS if (value := getattr(self, name)) is not None}
        if self.do_sample is False or self.has_beams:
            SamplingParams(**values)  # what has no say must still be in range
            values |= {"temperature": 0.0}
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return SamplingParams(
            **values,
            max_tokens=self._max_tokens(),
            logit_bias=self._logit_bias(),
            stop=tuple(stop),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            logprobs=logprobs,
            constraint=self._constraint(),
        )

    def _max_tokens(self) -> int | None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidRequestError(f"max_tokens is {self.max_tokens}; it must be at least 1.", param="max_tokens")
        return self.max_tokens

    def _constraint(self) -> Constraint | None:
        """What the answer must match."""
        found = self._constraints()
        if len(found) > 1:
            raise InvalidRequestError(
                f"{found[0].param} and {found[1].param} both say what the answer must match; send one.",
                param=found[1].param,
            )
        return found[0] if found else None

    def _constraints(self) -> list[Constraint]:
        found = []
        if self.guided_json is not None:
            found.append(Constraint("json_schema", json.dumps(self.guided_json, sort_keys=False), "guided_json"))
        if self.guided_regex is not None:
            found.append(Constraint("regex", self.guided_regex, "guided_regex"))
        if self.guided_choice is not None:
            found.append(Constraint("choice", json.dumps(self.guided_choice), "guided_choice"))
        if self.guided_grammar is not None:
            found.append(Constraint("lark", self.guided_grammar, "guided_grammar"))
        return found

    def _logit_bias(self) -> dict[int, float]:
        bias: dict[int, float] = {}
        for key, value in (self.logit_bias or {}).items():
            if not key.isascii() or not key.isdigit() or len(key) > 10:
                raise InvalidRequestError(
                    f"logit_bias has the key {key[:40]!r}; keys are token ids.", param="logit_bias"
                )
            bias[int(key)] = value
        return bias


def _extras(body: BaseModel, prefix: str = "") -> list[tuple[str, Any]]:
    """(path, value) of every field that no schema lists, in this object and the ones within."""
    found = [(prefix + name, value) for name, value in (body.model_extra or {}).items()]
    for name, value in body.__dict__.items():  # most of sixty fields are None, and every request comes through here
        if isinstance(value, BaseModel):
            found += _extras(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            for i, part in enumerate(value):
                if isinstance(part, BaseModel):
                    found += _extras(part, f"{prefix}{name}.{i}.")
    return found
