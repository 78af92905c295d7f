"""About how many tokens a request takes, before any tokenizer has seen it: what limits reserve until it is known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.sessions.text_tokens import estimate_tokens

ANSWER = 256
"""Tokens of an answer whose request sets no limit."""
IMAGE = 512
MESSAGE = 4


def request_tokens(requests: Sequence[GenerationRequest]) -> int:
    """Of the prompts, and of as many tokens as the answers may have."""
    return sum(_request(request) for request in requests)


def prompt_tokens(prompt: str | Sequence[int]) -> int:
    """Of a prompt: exact for token ids."""
    return estimate_tokens(prompt) if isinstance(prompt, str) else len(prompt)


def _request(request: GenerationRequest) -> int:
    num = prompt_tokens(request.prompt or "") + sum(map(_message, request.messages or ()))
    if request.tools is not None:
        num += estimate_tokens(json.dumps(list(request.tools.tools), default=str))
    longest = request.sampling.max_tokens
    return num + max(request.n, request.best_of) * (ANSWER if longest is None else longest)


def _message(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    if isinstance(content, str):
        return MESSAGE + estimate_tokens(content)
    parts = content if isinstance(content, list) else []
    texts = [part.get("text", "") for part in parts if isinstance(part, Mapping) and part.get("type") == "text"]
    return MESSAGE + sum(map(estimate_tokens, texts)) + IMAGE * (len(parts) - len(texts))
