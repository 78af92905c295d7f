"""Every request field that the openai client knows, with a value, and what a server with the pocket model does.

ANSWERED: the field does what it says, or asks for nothing that could be missing. REFUSED: a 400 that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openai.types import completion_create_params, embedding_create_params, image_generate_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

FUNCTION = {"name": "look_up", "description": "Looks up.", "parameters": {"type": "object", "properties": {}}}

# What a request needs at least.
LEAST: Mapping[str, Mapping[str, Any]] = {
    "chat": {"model": "pocket", "messages": [{"role": "user", "content": "one two three"}]},
    "completions": {"model": "pocket", "prompt": "one two three"},
    # Numbers, as the client's strict mode has no room for the base64 that it asks for by itself
    "embeddings": {"model": "pocket", "input": "one two three", "encoding_format": "float"},
    "images": {"model": "mock", "prompt": "A lighthouse"},
    "responses": {"model": "pocket", "input": "one two three"},
}
KNOWN: Mapping[str, set[str]] = {
    "chat": set(chat_create_params.CompletionCreateParamsNonStreaming.__annotations__),
    "completions": set(completion_create_params.CompletionCreateParamsNonStreaming.__annotations__),
    "embeddings": set(embedding_create_params.EmbeddingCreateParams.__annotations__),
    "images": set(image_generate_params.ImageGenerateParamsNonStreaming.__annotations__),
    "responses": {
        *response_create_params.ResponseCreateParamsBase.__annotations__,
        *response_create_params.ResponseCreateParamsNonStreaming.__annotations__,
    },
}
_SAMPLING: Mapping[str, Any] = {
    "frequency_penalty": -2,
    "logit_bias": {"5": 1},
    "max_tokens": 2,
    "n": 2,
    "presence_penalty": -2,
    "seed": -9007199254740991,
    "stop": ["\n", "three"],
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 1,
    "top_p": 1,
    "user": "user-1234",
}
ANSWERED: Mapping[str, Mapping[str, Any]] = {
    "chat": {
        **_SAMPLING,
        **LEAST["chat"],
        "function_call": "none",
        "logprobs": True,
        "max_completion_tokens": 2,
        "metadata": {"team": "docs"},
        "modalities": ["text"],
        "parallel_tool_calls": False,
        "prediction": {"type": "content", "content": "one two"},
        "prompt_cache_key": "team-7",
        "prompt_cache_options": {"mode": "implicit", "ttl": "30m"},
        "prompt_cache_retention": "24h",
        "reasoning_effort": "none",
        "response_format": {"type": "json_object"},
        "safety_identifier": "user-1234",
        "service_tier": "flex",
        "store": True,
        "tool_choice": {"type": "function", "function": {"name": "look_up"}},
        "tools": [{"type": "function", "function": FUNCTION}],
        "top_logprobs": 2,
        "verbosity": "medium",
    },
    "completions": {**_SAMPLING, **LEAST["completions"], "best_of": 2, "echo": True, "logprobs": 2},
    "embeddings": {**LEAST["embeddings"], "user": "user-1234"},
    "images": {
        **LEAST["images"],
        "background": "auto",
        "moderation": "auto",
        "n": 2,
        "partial_images": 0,
        "response_format": "url",
        "safety_identifier": "user-1234",
        "size": "256x256",
        "stream": False,
        "user": "user-1234",
    },
    "responses": {
        **LEAST["responses"],
        "background": True,
        "context_management": [],
        "image": {"context_compression": "auto"},
        "include": ["message.output_text.logprobs"],
        "instructions": "Be brief.",
        "max_output_tokens": 2,
        "max_tool_calls": 1,
        "metadata": {"team": "docs"},
        "parallel_tool_calls": False,
        "previous_response_id": None,
        "prompt_cache_key": "team-7",
        "prompt_cache_options": {"mode": "implicit", "ttl": "30m"},
        "prompt_cache_retention": "24h",
        "reasoning": {"effort": "none", "summary": "auto"},
        "safety_identifier": "user-1234",
        "service_tier": "flex",
        "store": False,
        "stream": True,
        "stream_options": {"include_obfuscation": False},
        "temperature": 1,
        "text": {"format": {"type": "json_object"}, "verbosity": "medium"},
        "tool_choice": {"type": "function", "name": "look_up"},
        "tools": [{"type": "function", "strict": False, **FUNCTION}],
        "top_logprobs": 2,
        "top_p": 1,
        "truncation": "auto",
        "user": "user-1234",
    },
}
REFUSED: Mapping[str, Mapping[str, Any]] = {
    "chat": {
        "audio": {"format": "wav", "voice": "alloy"},
        "functions": [FUNCTION],
        "moderation": {"model": "omni-moderation-latest"},
        "web_search_options": {"search_context_size": "low"},
    },
    # The pocket model has no tokens for filling in, and its vectors are not trained to be cut.
    "completions": {"suffix": "the end"},
    "embeddings": {"dimensions": 8},
    # The mock engine draws one way only; a provider's model may know quality and style
    "images": {
        "complexity": "low",
        "frame_count": 2,
        "frame_duration_ms": 20,
        "output_compression": 100,
        "output_format": "png",
        "quality": "hd",
        "style": "vivid",
        "svg": {"model": "x"},
    },
    "responses": {
        "access_programs": {"cyber": "standard"},
        "conversation": "conv_1",
        "moderation": {"model": "omni-moderation-latest"},
        "prompt": {"id": "pmpt_1"},
    },
}
# Other values of fields that are answered.
REFUSED_VALUES = (
    ("chat", {"function_call": "auto"}),
    ("chat", {"metadata": {"team": "docs"}}),  # without store
    ("chat", {"modalities": ["text", "audio"]}),
    ("chat", {"reasoning_effort": "low"}),
    ("chat", {"service_tier": "cheap"}),
    ("chat", {"verbosity": "low"}),
    ("responses", {"context_management": [{"type": "compaction"}]}),
    ("responses", {"image": {"context_compression": "enabled"}}),
    ("responses", {"service_tier": "cheap"}),
    ("images", {"background": "transparent"}),
    ("images", {"moderation": "low"}),
    ("images", {"partial_images": 1}),
    ("images", {"stream": True}),
)
# What a field needs beside it.
TOGETHER: Mapping[str, Mapping[str, Any]] = {
    "metadata": {"store": True},
    "response_format": {"max_tokens": 8},
    "stream_options": {"stream": True},
    "tool_choice": {"tools": [{"type": "function", "function": FUNCTION}]},
    "top_logprobs": {"logprobs": True},
}
RESPONSES_TOGETHER: Mapping[str, Mapping[str, Any]] = {
    "stream_options": {"stream": True},
    "text": {"max_output_tokens": 8},
    "tool_choice": {"tools": [{"type": "function", "strict": False, **FUNCTION}]},
    "top_logprobs": {"include": ["message.output_text.logprobs"]},
}
