"""Sampling parameters of one request, with their bounds.

Knows nothing of tensors or of HTTP. The API builds it from a request body; the batching loop reads it. An error
names the field as the wire does (`param`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmapi_kit.errors import InvalidRequestError
from llmapi_kit.sampling.constraints import Constraint

MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 1024
MAX_LOGIT_BIAS = 1024
MAX_TOP_LOGPROBS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen and when to stop.

    The order is that of the field: bias and penalties on the logits, temperature, then top_k, top_p, min_p and
    typical_p on what is left. Temperature 0 is greedy, whatever the other four say.

    Attributes:
        max_tokens: at most this many new tokens; None means up to the end of the context, 0 that the prompt is
            all there is to compute.
        min_tokens: before this many new tokens, neither an end-of-turn token nor a stop token is chosen, and stop
            strings are not looked for; at most max_tokens.
        temperature: 0 to 2; 0 takes the most likely token.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the fewest tokens whose probabilities add up to this; above 0, at most 1.
        min_p: drop tokens less likely than this share of the most likely one; 0 to 1.
        typical_p: keep the tokens whose information is nearest to the entropy, until their probabilities add up to
            this; above 0, at most 1, which is off. Source: Meister et al. 2023, "Locally Typical Sampling".
        repetition_penalty: divides the logits of tokens seen in prompt or answer; 1 is off.
            Source: Keskar et al. 2019, "CTRL", section 4.1.
        presence_penalty: subtracted once from every token already in the answer; -2 to 2.
        frequency_penalty: subtracted for every time a token is in the answer; -2 to 2.
        logit_bias: token id to a number added to its logit; -100 to 100.
        seed: with a seed, the same request gives the same text, whatever runs beside it.
        stop: texts that end the answer and are not part of it.
        include_stop_str_in_output: the text that ended the answer is part of it after all; so is a stop token's, if it
            has one.
        skip_special_tokens: leave special tokens out of the text.
        stop_token_ids: token ids that end the answer, besides the model's own.
        ignore_eos: go on past the model's end-of-turn token, so that exactly max_tokens are made.
        logprobs: None for none, else how many of the most likely tokens to report at each position (0 to 20).
        constraint: what the answer must match; applied before everything else.

    Raises:
        InvalidRequestError: a value is out of its range; `param` names it.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    ignore_eos: bool = False
    logprobs: int | None = None
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 0:
            raise InvalidRequestError(f"max_tokens is {self.max_tokens}; it can't be negative.", param="max_tokens")
        self._check_min_tokens()
        _check("temperature", self.temperature, 0, 2)
        _check("top_k", self.top_k, 0, 2**31 - 1)
        _check("top_p", self.top_p, 0, 1, above_low=True)
        _check("min_p", self.min_p, 0, 1)
        _check("typical_p", self.typical_p, 0, 1, above_low=True)
        _check("repetition_penalty", self.repetition_penalty, 0, 10, above_low=True)
        _check("presence_penalty", self.presence_penalty, -2, 2)
        _check("frequency_penalty", self.frequency_penalty, -2, 2)
        if self.seed is not None:
            _check("seed", self.seed, -(2**63), 2**63 - 1)
        self._check_stop()
        if len(self.logit_bias) > MAX_LOGIT_BIAS:
            raise InvalidRequestError(
                f"logit_bias has {len(self.logit_bias)} entries; at most {MAX_LOGIT_BIAS} are allowed.",
                param="logit_bias",
            )
        for bias in self.logit_bias.values():
            _check("logit_bias", bias, -100, 100)
        if self.logprobs is not None:
            _check("logprobs", self.logprobs, 0, MAX_TOP_LOGPROBS)

    def _check_min_tokens(self) -> None:
        if self.min_tokens < 0 or (self.max_tokens is not None and self.min_tokens > self.max_tokens):
            most = "" if self.max_tokens is None else f" and at most max_tokens, which is {self.max_tokens}"
            raise InvalidRequestError(
                f"min_tokens is {self.min_tokens}; it must be at least 0{most}.", param="min_tokens"
            )

    def _check_stop(self) -> None:
        if len(self.stop) > MAX_STOP_STRINGS:
            raise InvalidRequestError(
                f"stop has {len(self.stop)} strings; at most {MAX_STOP_STRINGS} are allowed.", param="stop"
            )
        for text in self.stop:
            if not 1 <= len(text) <= MAX_STOP_LENGTH:
                raise InvalidRequestError(
                    f"A stop string has {len(text)} characters; 1 to {MAX_STOP_LENGTH} are allowed.", param="stop"
                )

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is taken, so that no random number is drawn."""
        return self.temperature == 0

    @property
    def has_penalties(self) -> bool:
        """Whether tokens already seen change the logits."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


def with_off_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as clients send them, in the words of `SamplingParams`.

    ``top_k: -1`` keeps all tokens (vLLM, SGLang), ``top_p: 0`` is greedy, ``seed: -1`` means none (vLLM, llama.cpp),
    and an empty stop string is left out.
    """
    read = dict(values)
    if read.get("top_k") == -1:
        read["top_k"] = 0
    if read.get("top_p") == 0:
        _check("temperature", read.get("temperature", 1.0), 0, 2)  # what has no say must still be in range
        read |= {"top_p": 1.0, "temperature": 0.0}
    if read.get("seed") == -1:
        del read["seed"]
    if "stop" in read:
        stop = read["stop"]
        read["stop"] = tuple(text for text in ((stop,) if isinstance(stop, str) else stop or ()) if text)
    return read


def _check(name: str, value: float, low: float, high: float, *, above_low: bool = False) -> None:
    """Raise unless `value` is finite and within its bounds; `above_low` excludes the lower one."""
    is_low = value <= low if above_low else value < low
    if not math.isfinite(value) or is_low or value > high:
        bound = f"above {low:g}" if above_low else f"at least {low:g}"
        raise InvalidRequestError(f"{name} is {value}; it must be {bound} and at most {high:g}.", param=name)
