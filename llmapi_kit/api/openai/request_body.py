"""What chat completions and completions take alike: fields, their checks, and how they become sampling parameters.

A field that no body lists is refused by name, unless its value asks for nothing (`neutral_values`). So no field is ever
accepted and ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler
from pydantic.config import JsonDict
from pydantic_core import CoreSchema

from llmapi_kit.api.openai.neutral_values import ANYTHING, asks_for_nothing, neutral_values, without_indexes
from llmapi_kit.errors import InvalidRequestError, UnsupportedFieldError
from llmapi_kit.sampling.constraints import Constraint, ConstraintKind
from llmapi_kit.sampling.parameters import (
    MAX_LOGIT_BIAS,
    MAX_STOP_LENGTH,
    MAX_STOP_STRINGS,
    SamplingParams,
    with_off_values,
)

# What is known elsewhere, and what to use here.
INSTEAD: Mapping[str, str] = {
    "allowed_token_ids": "Use logit_bias.",
    "bad_words": "Use logit_bias.",
    "function_call": "Use tool_choice.",
    "functions": "Use tools.",
    "grammar": "Use guided_grammar, which is in Lark's syntax.",
    "json_schema": "Use response_format.",
    "n_probs": "Use logprobs.",
    "use_beam_search": "Use num_beams.",
}
MAX_ANSWERS = 16
MAX_LENGTH_PENALTY = 10
UNLIMITED = -1  # llama.cpp's and LM Studio's
NUM_TOKENS: JsonDict = {"minimum": UNLIMITED, "not": {"const": 0}}
# Parameters of SamplingParams that have the same name on the wire.
SAMPLING_FIELDS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "min_tokens",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "ignore_eos",
)


def at_most(num: int) -> BeforeValidator:
    """Refuses an object of more than `num` entries before it looks at each of them."""

    def check(value: object) -> object:
        if isinstance(value, dict) and len(value) > num:
            raise ValueError(f"it has {len(value)} entries; at most {num} are allowed")
        return value

    return BeforeValidator(check)


def _fail_fast(schema: Any) -> None:
    """Have every list in a pydantic schema checked up to its first fault."""
    if isinstance(schema, dict):
        if schema.get("type") == "list":
            schema["fail_fast"] = True
        schema = list(schema.values())
    if isinstance(schema, list | tuple):
        for part in schema:
            _fail_fast(part)


class StrictModel(BaseModel):
    """A JSON object without coercion: "0.5" is not a number, 1 is not true.

    Lists are checked up to their first fault: a body of two megabytes has room for a million of them, and to list them
    all would hold up everybody else for seconds.

    Attributes:
        own_neutral: what `neutral_values` does not say of all bodies: values that ask for nothing in this one.
    """

    model_config = ConfigDict(strict=True, extra="allow")
    own_neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The schema, with lists that fail fast."""
        schema = handler(source)
        _fail_fast(schema)
        return schema

    def refuse_unsupported(self) -> None:
        """Raise for the first field that would be ignored, here or in an object within.

        Raises:
            UnsupportedFieldError: it names the field.
        """
        for path, value in _extras(self):
            own = self.own_neutral.get(without_indexes(path), ())
            if own != (ANYTHING,) and value not in own and not asks_for_nothing(path, value):
                allowed = " or ".join(json.dumps(each) for each in (*own, *neutral_values(path)))
                hint = f" Only {allowed} is possible." if allowed else " Remove it from the request."
                hint += f" {INSTEAD[path]}" if path in INSTEAD else ""
                raise UnsupportedFieldError(f"The field {path} is not supported by this server.{hint}", param=path)


class StreamOptions(StrictModel):
    """Options of a stream."""

    include_usage: bool | None = Field(None, description="Send the usage on a last chunk without choices.")
    continuous_usage_stats: bool | None = Field(None, description="Send what was used so far with every chunk.")


class StructuredOutputs(StrictModel):
    """What the answer must match, as vLLM's clients say it; at most one of these."""

    json_: dict[str, Any] | str | bool | None = Field(None, alias="json", description="As guided_json.")
    regex: str | None = Field(None, description="As guided_regex.")
    choice: list[str] | None = Field(None, description="As guided_choice.")
    grammar: str | None = Field(None, description="As guided_grammar.")
    json_object: bool | None = Field(None, description="True: any JSON object.")


class RequestBody(StrictModel):
    """What every body has."""

    model: str | None = Field(None, description="A name from /v1/models; left out, the server's default.")
    user: str | None = Field(None, description="Your name for the end user; it changes nothing in the answer.")


class DecodingBody(RequestBody):
    """How tokens are chosen, in the fields that older APIs have too. Ranges are those of `SamplingParams`."""

    max_tokens: int | None = Field(
        None, description="At most this many new tokens; -1 for no limit.", json_schema_extra=NUM_TOKENS
    )
    n_predict: int | None = Field(None, description="llama.cpp's name of max_tokens.", json_schema_extra=NUM_TOKENS)
    temperature: float | None = Field(
        None,
        description="0 is greedy. Default: the model's own, else 1.",
        json_schema_extra={"minimum": 0, "maximum": 2},
    )
    top_k: int | None = Field(
        None,
        description="Keep the k most likely tokens; 0 and -1 keep all.",
        json_schema_extra={"minimum": -1, "maximum": 2**31 - 1},
    )
    top_p: float | None = Field(
        None,
        description="Keep the likeliest tokens that make up this probability; 0 is greedy.",
        json_schema_extra={"minimum": 0, "maximum": 1},
    )
    repetition_penalty: float | None = Field(
        None,
        description="Divides logits of tokens already seen; 1 is off.",
        json_schema_extra={"exclusiveMinimum": 0, "maximum": 10},
    )
    repeat_penalty: float | None = Field(
        None,
        description="llama.cpp's name of repetition_penalty.",
        json_schema_extra={"exclusiveMinimum": 0, "maximum": 10},
    )
    do_sample: bool | None = Field(None, description="False is greedy, whatever temperature says.")
    num_beams: int | None = Field(
        None,
        description="Above 1: a beam search, which gives the n likeliest whole answers and does not sample, so that "
        "temperature, top_k, top_p, min_p and seed have no say.",
        json_schema_extra={"minimum": 1, "maximum": 16},
    )
    length_penalty: float | None = Field(
        None,
        description="With num_beams: above 0 favours long answers, below 0 short ones.",
        json_schema_extra={"minimum": -MAX_LENGTH_PENALTY, "maximum": MAX_LENGTH_PENALTY},
    )


class GenerationBody(DecodingBody):
    """Fields that chat completions and completions share."""

    stream: bool | None = Field(None, description="Send pieces as server-sent events.")
    stream_options: StreamOptions | None = None
    n: int | None = Field(
        None,
        description="How many answers, 1 to 4, or to what the server's setting max_answers says, "
        f"{MAX_ANSWERS} at most.",
        json_schema_extra={"minimum": 1, "maximum": MAX_ANSWERS},
    )
    min_p: float | None = Field(
        None,
        description="Drop tokens below this share of the likeliest one.",
        json_schema_extra={"minimum": 0, "maximum": 1},
    )
    typical_p: float | None = Field(
        None,
        description="Keep the tokens that are as surprising as can be expected, up to this probability; 1 is off.",
        json_schema_extra={"exclusiveMinimum": 0, "maximum": 1},
    )
    presence_penalty: float | None = Field(
        None, description="Subtracted once from tokens already made.", json_schema_extra={"minimum": -2, "maximum": 2}
    )
    frequency_penalty: float | None = Field(
        None, description="Subtracted for each time a token was made.", json_schema_extra={"minimum": -2, "maximum": 2}
    )
    logit_bias: Annotated[dict[str, float], at_most(MAX_LOGIT_BIAS)] | None = Field(
        None,
        description="Token id to a number added to its logit.",
        json_schema_extra={
            "maxProperties": MAX_LOGIT_BIAS,
            "propertyNames": {"pattern": "^[0-9]{1,4}$"},
            "additionalProperties": {"minimum": -100, "maximum": 100},
        },
    )
    seed: int | None = Field(
        None,
        description="The same request with the same seed gives the same text; -1 is no seed.",
        json_schema_extra={"minimum": -(2**63), "maximum": 2**63 - 1},
    )
    stop: str | list[str] | None = Field(
        None,
        description="Up to 4 texts that end the answer, or what the server's setting max_stop_strings says, "
        f"{MAX_STOP_STRINGS} at most; empty ones are none.",
        json_schema_extra={"maxItems": MAX_STOP_STRINGS, "items": {"maxLength": MAX_STOP_LENGTH}},
    )
    stop_token_ids: list[int] | None = Field(None, description="Token ids that end the answer.")
    include_stop_str_in_output: bool | None = Field(None, description="Leave the text that ended it in the answer.")
    skip_special_tokens: bool | None = Field(None, description="False: special tokens are part of the text.")
    min_tokens: int | None = Field(
        None, description="No end and no stop before this many new tokens.", json_schema_extra={"minimum": 0}
    )
    ignore_eos: bool | None = Field(None, description="Go on past the end of turn, up to max_tokens.")
    cache_salt: str | None = Field(None, description="Share cached prompts with requests of the same salt only.")
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | bool | None = Field(
        None, description="A JSON schema, or its text, that the answer matches."
    )
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
        if self.stream_options is not None and self.stream_options.model_dump(exclude_none=True) and not self.stream:
            raise InvalidRequestError("stream_options goes with stream=true only.", param="stream_options")
        if self.num_beams is not None and self.num_beams < 1:
            raise InvalidRequestError(f"num_beams is {self.num_beams}; it must be at least 1.", param="num_beams")
        if self.do_sample and (self.has_beams or self.temperature == 0):
            other = "num_beams above 1" if self.has_beams else "temperature=0"
            raise InvalidRequestError(f"do_sample=true does not go with {other}.", param="do_sample")
        if self.length_penalty is not None and not abs(self.length_penalty) <= MAX_LENGTH_PENALTY:
            raise InvalidRequestError(
                f"length_penalty is {self.length_penalty}; it must be {-MAX_LENGTH_PENALTY} to {MAX_LENGTH_PENALTY}.",
                param="length_penalty",
            )
        if self.repeat_penalty is not None and not 0 < self.repeat_penalty <= 10:
            raise InvalidRequestError(
                f"repeat_penalty is {self.repeat_penalty}; it must be above 0 and at most 10.", param="repeat_penalty"
            )
        if (
            None not in (self.repeat_penalty, self.repetition_penalty)
            and self.repeat_penalty != self.repetition_penalty
        ):
            raise InvalidRequestError(
                "repeat_penalty and repetition_penalty mean the same and differ; send one.", param="repeat_penalty"
            )

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
        if self.repeat_penalty is not None:
            values["repetition_penalty"] = self.repeat_penalty
        values = with_off_values(values)
        if self.do_sample is False or self.has_beams:
            SamplingParams(**values)  # what has no say must still be in range
            values |= {"temperature": 0.0}
        return SamplingParams(
            **values,
            max_tokens=self._max_tokens(),
            logit_bias=self._logit_bias(),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            logprobs=logprobs,
            constraint=self._constraint(),
        )

    def _max_tokens(self) -> int | None:
        """The smallest of the limits that were sent: proxies add one of another name."""
        limits = [value for name in self._limit_names if (value := self._limit(name)) is not None]
        return min(limits, default=None)

    _limit_names: ClassVar[tuple[str, ...]] = ("max_tokens", "n_predict")

    def _limit(self, name: str) -> int | None:
        value: int | None = getattr(self, name)
        if value in (None, UNLIMITED):
            return None
        if value < 1:
            raise InvalidRequestError(f"{name} is {value}; it must be at least 1.", param=name)
        return value

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
        given: list[tuple[ConstraintKind, Any, str]] = [
            ("json_schema", self.guided_json, "guided_json"),
            ("regex", self.guided_regex, "guided_regex"),
            ("choice", self.guided_choice, "guided_choice"),
            ("lark", self.guided_grammar, "guided_grammar"),
        ]
        if (outputs := self.structured_outputs) is not None:
            given += [
                ("json_schema", outputs.json_, "structured_outputs.json"),
                ("regex", outputs.regex, "structured_outputs.regex"),
                ("choice", outputs.choice, "structured_outputs.choice"),
                ("lark", outputs.grammar, "structured_outputs.grammar"),
                ("json_object", outputs.json_object or None, "structured_outputs.json_object"),
            ]
        return [Constraint(kind, _source(kind, value), param) for kind, value, param in given if value is not None]

    def _salted(self, key_salt: str) -> str:
        """What `GenerationRequest.cache_salt` takes: the key's own salt, with the request's."""
        return f"{key_salt}:{self.cache_salt}" if self.cache_salt else key_salt

    def _logit_bias(self) -> dict[int, float]:
        bias: dict[int, float] = {}
        for key, value in (self.logit_bias or {}).items():
            if not key.isascii() or not key.isdigit() or len(key) > 10:
                raise InvalidRequestError(
                    f"logit_bias has the key {key[:40]!r}; keys are token ids.", param="logit_bias"
                )
            bias[int(key)] = value
        return bias


def _source(kind: ConstraintKind, value: Any) -> str:
    """What `Constraint.source` takes; a schema may come as text already."""
    if kind == "json_object":
        return ""
    return value if isinstance(value, str) else json.dumps(value)


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
