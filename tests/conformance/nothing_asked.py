"""Request fields of OpenAI's clients and the documented extras of other servers: which values of them ask for nothing.

A row says of one field which values must be accepted because the answer is the same without them, and which are refused
by a 400 that names the field, since the answer would not be what they ask for. Null is accepted everywhere and is not
listed. `KNOWN` says which fields there are; a field without a row fails a test.

Source: the openai client's types; the "extra parameters" of vLLM's OpenAI-compatible server; SGLang's native
parameters; the options of llama.cpp's server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .client_fields import KNOWN as OPENAI

FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}


@dataclass(frozen=True)
class Row:
    """What values of a field mean.

    Attributes:
        nothing: they change nothing in the answer.
        refused: they are a 400 that names the field.
        beside: other fields that the row's values need.
    """

    nothing: Sequence[Any] = ()
    refused: Sequence[Any] = ()
    beside: Mapping[str, Any] = ()


BOTH: Mapping[str, Row] = {
    # OpenAI
    "frequency_penalty": Row([0, 0.0], [3]),
    "logit_bias": Row([{}], [{"x": 1}]),
    "max_tokens": Row([-1], [-2]),
    "n": Row([1], [0, 17]),
    "presence_penalty": Row([0], [-2.5]),
    "seed": Row([-1], ["7"]),
    "stop": Row(["", [], [""]], [["a"] * 17]),
    "stream": Row([False]),
    "stream_options": Row([{}], [{"include_usage": True}]),
    "temperature": Row([0], [2.5, -0.1]),
    "top_p": Row([1, 0, 0.0], [1.5]),
    "user": Row(["", "somebody"], [5]),
    # vLLM
    "allowed_token_ids": Row([[]], [[1]]),
    "bad_words": Row([[]], [["no"]]),
    "cache_salt": Row(["", "a"]),
    "early_stopping": Row([False], [True]),
    "guided_choice": Row((), [[]]),
    "guided_decoding_backend": Row(["xgrammar", "auto"]),
    "guided_grammar": Row((), [""]),
    "guided_json": Row((), [5]),
    "guided_regex": Row((), [""]),
    "guided_whitespace_pattern": Row((), [r"\s"]),
    "ignore_eos": Row([False]),
    "include_stop_str_in_output": Row([False, True]),
    "kv_transfer_params": Row([{}], [{"do_remote_prefill": True}]),
    "length_penalty": Row([1, 1.0], [2.0]),  # without beams
    "logits_processors": Row([[]], [["x"]]),
    "min_p": Row([0], [2]),
    "min_tokens": Row([0], [-1]),
    "priority": Row([0], [1]),
    "prompt_logprobs": Row((), [1]),
    "repetition_penalty": Row([1], [0]),
    "request_id": Row(["mine"]),
    "return_token_ids": Row([False], [True]),
    "return_tokens_as_token_ids": Row([False], [True]),
    "skip_special_tokens": Row([True, False]),
    "spaces_between_special_tokens": Row([True], [False]),
    "stop_token_ids": Row([[]], [[10**9]]),
    "structural_tag": Row((), [{"x": 1}]),
    "structured_outputs": Row(
        [{}, {"json": None}],
        [{"structural_tag": "x"}],
    ),
    "structured_outputs.disable_additional_properties": Row([False], [True]),
    "structured_outputs.disable_any_whitespace": Row([False], [True]),
    "structured_outputs.disable_fallback": Row([True]),
    "top_k": Row([0, -1], [-2]),
    "truncate_prompt_tokens": Row((), [5]),
    "use_beam_search": Row([False], [True]),
    "vllm_xargs": Row([{}], [{"x": 1}]),
    "detokenize": Row([True], [False]),
    # SGLang
    "custom_params": Row([{}], [{"x": 1}]),
    "lora_path": Row([""], ["x"]),
    "no_stop_trim": Row([False], [True]),
    "return_hidden_states": Row([False], [True]),
    "rid": Row(["mine"]),
    # transformers
    "do_sample": Row([False], ["no"]),
    "num_beams": Row([1], [0]),
    # llama.cpp
    "cache_prompt": Row([True, False]),
    "dry_allowed_length": Row([2]),
    "dry_base": Row([1.75]),
    "dry_multiplier": Row([0, 0.0], [0.8]),
    "dry_penalty_last_n": Row([-1]),
    "dry_sequence_breakers": Row([["\n", ":"]]),
    "dynatemp_exponent": Row([1.0]),
    "dynatemp_range": Row([0], [0.5]),
    "grammar": Row([""], ['root ::= "a"']),
    "id_slot": Row([-1], [0]),
    "json_schema": Row((), [{"type": "object"}]),
    "lora": Row([[]], [[{"id": 0, "scale": 1}]]),
    "min_keep": Row([0], [1]),
    "mirostat": Row([0], [2]),
    "mirostat_eta": Row([0.1]),
    "mirostat_tau": Row([5.0]),
    "n_discard": Row([0], [5]),
    "n_indent": Row([0], [4]),
    "n_keep": Row([0, -1], [5]),
    "n_predict": Row([-1], [0]),
    "n_probs": Row([0], [5]),
    "penalize_nl": Row([False], [True]),
    "post_sampling_probs": Row([False], [True]),
    "repeat_last_n": Row([-1, 64], [16]),
    "repeat_penalty": Row([1.0], [0]),
    "response_fields": Row([[]], [["content"]]),
    "return_progress": Row([False], [True]),
    "return_tokens": Row([False], [True]),
    "samplers": Row(
        [["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]], [["top_k"]]
    ),
    "t_max_predict_ms": Row([0], [100]),
    "tfs_z": Row([1.0], [0.5]),
    "timings_per_token": Row([False], [True]),
    "top_n_sigma": Row([-1, -1.0], [2.0]),
    "typical_p": Row([1, 1.0], [0]),
    "xtc_probability": Row([0, 0.0], [0.5]),
    "xtc_threshold": Row([0.1]),
}
CHAT: Mapping[str, Row] = {
    # OpenAI
    "audio": Row((), [{"format": "wav", "voice": "alloy"}]),
    "function_call": Row(["none"], ["auto"]),
    "functions": Row([[]], [[FUNCTION]]),
    "logprobs": Row([False]),
    "max_completion_tokens": Row([-1], [0]),
    "messages": Row((), [[]]),
    "metadata": Row([{}], [{"a": "b"}]),  # without store
    "modalities": Row([["text"]], [["text", "audio"]]),
    "moderation": Row(["auto"], [{"model": "x"}]),
    "parallel_tool_calls": Row([True, False]),
    "prediction": Row([{"type": "content", "content": "one"}]),
    "prompt_cache_key": Row(["", "a"]),
    "prompt_cache_options": Row([{"mode": "implicit"}]),
    "prompt_cache_retention": Row(["in_memory", "24h"]),
    "reasoning_effort": Row(["none", "minimal"], ["low", "high"]),
    "response_format": Row([{"type": "text"}], [{"type": "text", "json_schema": {"name": "x", "schema": {}}}]),
    "safety_identifier": Row(["", "a"]),
    "service_tier": Row(["auto", "default", "flex", "priority"], ["cheap"]),
    "store": Row([False]),
    "stream_options.continuous_usage_stats": Row([False, True], beside={"stream": True}),
    "stream_options.include_obfuscation": Row([False], [True], beside={"stream": True}),
    "tool_choice": Row(["none", "auto"], ["required"]),  # without tools
    "tools": Row([[]], [[{"type": "custom", "custom": {"name": "x"}}]]),
    "top_logprobs": Row([0], [2]),  # without logprobs
    "verbosity": Row(["medium"], ["low"]),
    "web_search_options": Row((), [{}]),
    # vLLM and SGLang
    "add_generation_prompt": Row([True]),
    "add_special_tokens": Row([False], [True]),
    "best_of": Row([1], [2]),
    "chat_template": Row((), ["{{ messages }}"]),
    "chat_template_content_format": Row(["auto"], ["string"]),
    "chat_template_kwargs": Row([{}, {"enable_thinking": False}], [{"enable_thinking": True}, {"x": False}]),
    "continue_final_message": Row([False]),
    "documents": Row([[]], [[{"text": "x"}]]),
    "echo": Row([False], [True]),
    "include_reasoning": Row([True], [False]),
    "mm_processor_kwargs": Row([{}], [{"x": 1}]),
    "separate_reasoning": Row([True], [False]),
    "stream_reasoning": Row([True], [False]),
    # llama.cpp
    "parse_tool_calls": Row([True], [False]),
    "reasoning_format": Row(["auto", "deepseek"], ["none"]),
    "thinking_forced_open": Row([False], [True]),
    # clients for several providers
    "cache_control": Row([{"type": "ephemeral"}]),
}
COMPLETIONS: Mapping[str, Row] = {
    "add_special_tokens": Row([True], [False]),
    "best_of": Row([1], [0]),
    "echo": Row([False]),
    "logprobs": Row((), [6]),
    "prompt": Row((), [[]]),
    "response_format": Row([{"type": "text"}], [{"type": "json_object"}]),
    "suffix": Row([""], ["the end"]),
}
# Within a message of a conversation: role of the message, field, values.
MESSAGES: Sequence[tuple[str, str, Row]] = (
    ("user", "name", Row(["Ada"], [5])),
    ("system", "name", Row(["rules"])),
    ("assistant", "name", Row(["planner"])),
    ("assistant", "annotations", Row([[], [{"type": "url_citation", "url_citation": {}}]])),
    ("assistant", "refusal", Row([""])),
    ("assistant", "audio", Row((), [{"id": "x"}])),
    ("assistant", "function_call", Row((), [{"name": "f", "arguments": "{}"}])),
    ("assistant", "tool_calls", Row([[]])),
    ("assistant", "parsed", Row([{"a": 1}])),
    ("assistant", "reasoning_content", Row(["Hm."])),
    ("assistant", "reasoning", Row(["Hm."])),
    ("assistant", "reasoning_details", Row([[]], [[{"type": "reasoning.text"}]])),
    ("assistant", "thinking_blocks", Row([[]], [[{"type": "thinking"}]])),
    ("assistant", "provider_specific_fields", Row([{}], [{"x": 1}])),
    ("user", "cache_control", Row([{"type": "ephemeral"}])),
    ("user", "content", Row((), [5])),
    ("user", "weight", Row((), [1])),
)
FIELDS: Mapping[str, Mapping[str, Row]] = {"chat": {**BOTH, **CHAT}, "completions": {**BOTH, **COMPLETIONS}}

_VLLM_BOTH = {
    "add_special_tokens", "allowed_token_ids", "bad_words", "best_of", "cache_salt", "early_stopping",
    "guided_choice", "guided_decoding_backend", "guided_grammar", "guided_json", "guided_regex",
    "guided_whitespace_pattern", "ignore_eos", "include_stop_str_in_output", "kv_transfer_params",
    "length_penalty", "logits_processors", "min_p", "min_tokens", "priority", "prompt_logprobs",
    "repetition_penalty", "request_id", "return_token_ids", "return_tokens_as_token_ids", "skip_special_tokens",
    "spaces_between_special_tokens", "stop_token_ids", "structural_tag", "structured_outputs", "top_k",
    "truncate_prompt_tokens", "use_beam_search", "vllm_xargs",
}  # fmt: skip
_VLLM_CHAT = {
    "add_generation_prompt", "chat_template", "chat_template_content_format", "chat_template_kwargs",
    "continue_final_message", "documents", "echo", "include_reasoning", "mm_processor_kwargs",
}  # fmt: skip
_LLAMA_CPP = {
    "cache_prompt", "dry_allowed_length", "dry_base", "dry_multiplier", "dry_penalty_last_n", "dry_sequence_breakers",
    "dynatemp_exponent", "dynatemp_range", "frequency_penalty", "grammar", "id_slot", "ignore_eos", "json_schema",
    "logit_bias", "lora", "min_keep", "min_p", "mirostat", "mirostat_eta", "mirostat_tau", "n_discard", "n_indent",
    "n_keep", "n_predict", "n_probs", "post_sampling_probs", "presence_penalty", "repeat_last_n", "repeat_penalty",
    "response_fields", "return_progress", "return_tokens", "samplers", "seed", "stop", "stream", "t_max_predict_ms",
    "temperature", "timings_per_token", "top_k", "top_n_sigma", "top_p", "typical_p", "xtc_probability",
    "xtc_threshold",
}  # fmt: skip
_LLAMA_CPP_CHAT = {"chat_template_kwargs", "parse_tool_calls", "reasoning_format", "thinking_forced_open"}
_SGLANG = {"custom_params", "lora_path", "no_stop_trim", "return_hidden_states", "rid"}
_SGLANG_CHAT = {"separate_reasoning", "stream_reasoning"}
# Fields that have to have a row. `model` is no setting of the answer.
KNOWN: Mapping[str, set[str]] = {
    "chat": OPENAI["chat"] | _VLLM_BOTH | _VLLM_CHAT | _LLAMA_CPP | _LLAMA_CPP_CHAT | _SGLANG | _SGLANG_CHAT,
    "completions": OPENAI["completions"] | _VLLM_BOTH | _LLAMA_CPP | _SGLANG | {"response_format"},
}
