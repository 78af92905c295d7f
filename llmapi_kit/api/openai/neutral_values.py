"""Values of fields this server does not have that ask for nothing: clients which always send them are served.

A field that no body lists is refused by name unless its value is null or stands here. A row belongs here when the
answer would be the same without it: the API's own default, a switch that is off, a label, or a hint about speed and
caches.

Source: the API reference of OpenAI; the documented extra parameters of vLLM's and SGLang's servers and of llama.cpp's
server, with their defaults.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

ANYTHING = object()
_INDEX = re.compile(r"\.\d+(?=\.|$)")

# Path of the field, without the indexes of lists, to the values that ask for nothing.
_OPENAI: Mapping[str, tuple[Any, ...]] = {
    "background": ("auto",),
    "function_call": ("none",),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": ("auto",),
    "partial_images": (0,),
    "prediction": (ANYTHING,),  # what the answer may look like, to make it faster
    "prompt_cache_options": (ANYTHING,),
    "prompt_cache_retention": (ANYTHING,),
    "stream": (False,),
    "stream_options.include_obfuscation": (False,),
    "verbosity": ("medium",),
    # In the messages of earlier answers, and what its SDK's parse() adds to them
    "messages.annotations": (ANYTHING,),
    "messages.parsed": (ANYTHING,),
    "messages.tool_calls.index": (ANYTHING,),
    "messages.tool_calls.function.parsed_arguments": (ANYTHING,),
}
# The order in which llama.cpp's samplers run unless a request says otherwise, with and without those that came later.
DEFAULT_SAMPLERS = (
    ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"],
    ["dry", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"],
)
# What clients for several providers leave in.
_OTHER_PROVIDERS: Mapping[str, tuple[Any, ...]] = {
    "cache_control": (ANYTHING,),
    "messages.cache_control": (ANYTHING,),
    "messages.content.cache_control": (ANYTHING,),
    "messages.provider_specific_fields": ({},),
    "messages.reasoning_details": ([],),
    "messages.thinking_blocks": ([],),
    "tools.cache_control": (ANYTHING,),
    "tools.function.cache_control": (ANYTHING,),
}
_VLLM: Mapping[str, tuple[Any, ...]] = {
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "chat_template_content_format": ("auto",),
    "custom_params": ({},),
    "detokenize": (True,),
    "documents": ([],),
    "early_stopping": (False,),
    "guided_decoding_backend": (ANYTHING,),
    "include_reasoning": (True,),
    "kv_transfer_params": ({},),
    "logits_processors": ([],),
    "lora_path": ("",),
    "mm_processor_kwargs": ({},),
    "no_stop_trim": (False,),
    "priority": (0,),
    "request_id": (ANYTHING,),
    "return_hidden_states": (False,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "rid": (ANYTHING,),
    "separate_reasoning": (True,),
    "spaces_between_special_tokens": (True,),
    "stream_reasoning": (True,),
    "structured_outputs.disable_additional_properties": (False,),
    "structured_outputs.disable_any_whitespace": (False,),
    "structured_outputs.disable_fallback": (ANYTHING,),
    "use_beam_search": (False,),
    "vllm_xargs": ({},),
}
_LLAMA_CPP: Mapping[str, tuple[Any, ...]] = {
    "cache_prompt": (ANYTHING,),
    "dry_allowed_length": (ANYTHING,),
    "dry_base": (ANYTHING,),
    "dry_multiplier": (0,),
    "dry_penalty_last_n": (ANYTHING,),
    "dry_sequence_breakers": (ANYTHING,),
    "dynatemp_exponent": (ANYTHING,),
    "dynatemp_range": (0,),
    "grammar": ("",),
    "id_slot": (-1,),
    "lora": ([],),
    "min_keep": (0,),
    "mirostat": (0,),
    "mirostat_eta": (ANYTHING,),
    "mirostat_tau": (ANYTHING,),
    "n_discard": (0,),
    "n_indent": (0,),
    "n_keep": (0, -1),
    "n_probs": (0,),
    "parse_tool_calls": (True,),
    "penalize_nl": (False,),
    "post_sampling_probs": (False,),
    "reasoning_format": ("auto", "deepseek"),  # reasoning comes as reasoning_content
    "repeat_last_n": (-1, 64),  # the penalty counts the whole context here; 64 is the default there
    "response_fields": ([],),
    "return_progress": (False,),
    "return_tokens": (False,),
    "samplers": DEFAULT_SAMPLERS,
    "t_max_predict_ms": (0, -1),
    "tfs_z": (1,),
    "thinking_forced_open": (False,),
    "timings_per_token": (False,),
    "top_n_sigma": (-1, 0),
    "xtc_probability": (0,),
    "xtc_threshold": (ANYTHING,),
}
NEUTRAL: Mapping[str, tuple[Any, ...]] = {**_OPENAI, **_OTHER_PROVIDERS, **_VLLM, **_LLAMA_CPP}


def without_indexes(path: str) -> str:
    """A path such as ``messages.0.annotations`` without the indexes of lists."""
    return _INDEX.sub("", path)


def neutral_values(path: str) -> tuple[Any, ...]:
    """The values that ask for nothing at a path such as ``messages.0.annotations``, beside null."""
    return NEUTRAL.get(without_indexes(path), ())


def asks_for_nothing(path: str, value: object) -> bool:
    """Whether the answer is the same with this field and without it."""
    known = neutral_values(path)
    return value is None or known == (ANYTHING,) or value in known
