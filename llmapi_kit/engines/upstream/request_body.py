"""From a request to the JSON that one provider understands.

What the provider does not honour is refused by name and never left out. Knows nothing of connections.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from llmapi_kit.checkpoints.providers import Provider
from llmapi_kit.engines.base import GenerationRequest, ToolUse
from llmapi_kit.errors import InvalidRequestError, UnsupportedFieldError
from llmapi_kit.sampling.constraints import Constraint
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import ImageRequest

CHAT_PATH = "/chat/completions"
COMPLETIONS_PATH = "/completions"
SCHEMA_NAME = "answer"
# Sampling parameters that have one name everywhere, and the value that asks for nothing.
NEUTRAL: Mapping[str, float] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
ZERO_UNLESS_ASKED = ("presence_penalty", "frequency_penalty")
GUIDED: Mapping[str, str] = {"json_schema": "json", "regex": "regex", "choice": "choice", "lark": "grammar"}
# Fields that stand within others; the errors name those.
WITHIN: Mapping[str, str] = {"strict": "tools", "reasoning_content": "messages"}


def body_of(request: GenerationRequest, provider: Provider, model: str) -> tuple[str, dict[str, Any]]:
    """The path and the JSON to send.

    Raises:
        InvalidRequestError: the provider does not honour a field or its value; it names the field.
    """
    is_chat = request.messages is not None
    honoured = provider.chat if is_chat else provider.completions
    fields = dict(_fields(request, provider, honoured))
    _refuse_unknown(fields, honoured, provider, is_chat=is_chat)
    body: dict[str, Any] = {"model": model}
    if is_chat:
        body["messages"] = [dict(message) for message in request.messages or ()]
    else:
        body["prompt"] = _prompt(request.prompt, provider)
    for name, value in fields.items():
        body |= _on_the_wire(name, value, provider, is_chat=is_chat)
    if provider.streams and request.best_of <= request.n:  # the best of several is known when all are complete
        body["stream"] = True
        if provider.says_usage:
            body["stream_options"] = {"include_usage": True}
    return CHAT_PATH if is_chat else COMPLETIONS_PATH, {**body, **provider.extra}


def image_body(request: ImageRequest, model: str) -> dict[str, Any]:
    """The JSON that asks for pictures."""
    body: dict[str, Any] = {"model": model, "prompt": request.prompt, "n": request.n}
    body |= {name: value for name in ("size", "quality", "style") if (value := getattr(request, name))}
    if not model.startswith("gpt-image"):  # those give data always, and refuse the field
        body["response_format"] = "url" if request.wants_url else "b64_json"
    return body


def _fields(request: GenerationRequest, provider: Provider, honoured: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """What the request asks for, by the names of our own API; nothing for what asks for nothing."""
    yield from _sampling(request.sampling, provider, honoured)
    plain = {
        "n": request.n if request.n > 1 else None,
        "best_of": request.best_of if request.best_of > request.n else None,
        "num_beams": request.num_beams if request.num_beams > 1 else None,
        "length_penalty": request.length_penalty if request.length_penalty != 1 else None,
        "echo": request.echo or None,
        "suffix": request.suffix,
        "reasoning_effort": request.reasoning_effort,
        "chat_template_kwargs": dict(request.template_options) or None,
        "continue_final_message": request.is_continuing or None,
        "add_generation_prompt": None if request.has_generation_prompt and not request.is_continuing else False,
        # The upstream sees one key for all of ours: without it, they would share cached prefixes
        "cache_salt": request.cache_salt if "cache_salt" in honoured and request.cache_salt else None,
        "reasoning_content": any("reasoning_content" in message for message in request.messages or ()) or None,
    }
    yield from ((name, value) for name, value in plain.items() if value is not None)
    if request.tools is not None:
        yield from _tools(request.tools)


def _sampling(params: SamplingParams, provider: Provider, honoured: frozenset[str]) -> Iterator[tuple[str, Any]]:
    if params.temperature > provider.max_temperature:
        raise InvalidRequestError(
            f"temperature is {params.temperature:g}; {provider.name} takes at most {provider.max_temperature:g}.",
            param="temperature",
        )
    for name, neutral in NEUTRAL.items():
        value = getattr(params, name)
        is_neutral = value == neutral
        if value == provider.defaults.get(name) or (is_neutral and name in ZERO_UNLESS_ASKED):
            continue
        # A neutral value is sent too: the upstream may have another default for a field left out
        if not is_neutral or name in honoured:
            yield name, value
    plain = {
        "max_tokens": params.max_tokens,
        "seed": params.seed,
        "stop": list(params.stop) or None,
        "stop_token_ids": list(params.stop_token_ids) or None,
        "ignore_eos": params.ignore_eos or None,
        "min_tokens": params.min_tokens or None,
        "include_stop_str_in_output": params.include_stop_str_in_output or None,
        "skip_special_tokens": None if params.skip_special_tokens else False,
        "logit_bias": {str(token_id): bias for token_id, bias in params.logit_bias.items()} or None,
        "logprobs": params.logprobs,
    }
    yield from ((name, value) for name, value in plain.items() if value is not None)
    if params.constraint is not None:
        yield params.constraint.kind, params.constraint


def _tools(use: ToolUse) -> Iterator[tuple[str, Any]]:
    yield "tools", list(use.tools)
    if use.forced:
        yield "tool_choice", {"type": "function", "function": {"name": use.forced}}
    elif use.is_required:
        yield "tool_choice", "required"
    if not use.is_parallel:
        yield "parallel_tool_calls", False
    if any(tool["function"].get("strict") for tool in use.tools):
        yield "strict", True


def _prompt(prompt: object, provider: Provider) -> object:
    if isinstance(prompt, str):
        return prompt
    if not provider.takes_token_ids:
        raise UnsupportedFieldError(f"{provider.name} takes no token ids; send the prompt as text.", param="prompt")
    return list(prompt) if isinstance(prompt, tuple | list) else prompt


def _on_the_wire(name: str, value: Any, provider: Provider, *, is_chat: bool) -> dict[str, Any]:
    """A field as the provider takes it; nothing for one that stands within another."""
    if isinstance(value, Constraint):
        return _constraint(value, provider, is_chat=is_chat)
    if name in WITHIN or (name == "stop" and provider.only_continues):
        return {}
    if name == "logprobs" and is_chat:
        return {"logprobs": True, "top_logprobs": value}
    if name == "max_tokens" and not is_chat:  # the older API has the older name everywhere
        return {"max_tokens": value}
    return {provider.wire_names.get(name, name): value}


def _constraint(constraint: Constraint, provider: Provider, *, is_chat: bool) -> dict[str, Any]:
    if constraint.kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    source = constraint.source if constraint.kind in ("regex", "lark") else json.loads(constraint.source)
    if constraint.kind == "json_schema" and is_chat:
        schema = {"name": SCHEMA_NAME, "schema": source, "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    kind = GUIDED[constraint.kind]
    return {"structured_outputs": {kind: source}} if provider.structured_outputs else {f"guided_{kind}": source}


def _refuse_unknown(fields: Mapping[str, Any], honoured: frozenset[str], provider: Provider, *, is_chat: bool) -> None:
    """Raise for the first field that the provider would ignore.

    Raises:
        UnsupportedFieldError: it names the field.
    """
    if not honoured:
        what = "answers prompts, not conversations" if is_chat else "answers conversations, not prompts"
        use = COMPLETIONS_PATH if is_chat else CHAT_PATH
        raise UnsupportedFieldError(f"{provider.name} {what}. Use /v1{use}.", param="messages" if is_chat else "prompt")
    for name, value in fields.items():
        if name not in honoured:
            param = value.param if isinstance(value, Constraint) else WITHIN.get(name, name)
            what = f"{name} in {param}" if name in WITHIN else param
            raise UnsupportedFieldError(
                f"This model is {provider.name}'s, which does not honour {what}. Remove it from the request.",
                param=param,
            )
