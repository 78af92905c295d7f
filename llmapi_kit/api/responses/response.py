"""The response object: what was asked, what came of it, and its output as items.

Source: OpenAI API reference, "Responses": the response object.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from llmapi_kit.api.openai.answer_parts import Part
from llmapi_kit.api.openai.packed_reasoning import packed
from llmapi_kit.api.responses.body import ENCRYPTED, ResponsesBody
from llmapi_kit.errors import RequestError
from llmapi_kit.types import Finished, TokenLogprob

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
UNFINISHED: Sequence[Status] = ("queued", "in_progress")
INCOMPLETE: Mapping[str, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}
ITEM_PREFIXES: Mapping[str, str] = {"reasoning": "rs", "text": "msg", "call": "fc"}
RESPONSE_PREFIX = "resp_"


class Output:
    """How a response's parts are written as items.

    Args:
        response_id: items are named after it, so that an item leads to its response.
        include: what the request wants besides.
        names: (namespace, name) of functions in namespaces, by what the model calls them.
    """

    def __init__(
        self, response_id: str, include: Sequence[str], names: Mapping[str, tuple[str, str]] | None = None
    ) -> None:
        self._names = names or {}
        self._name = response_id.removeprefix(RESPONSE_PREFIX)
        self._is_packed = ENCRYPTED in include

    def item_id(self, part: Part) -> str:
        """The id of a part's item."""
        return f"{ITEM_PREFIXES[part.kind]}_{self._name}{part.position:04x}"

    def opened(self, part: Part) -> dict[str, Any]:
        """A part's item before anything of it came."""
        item: dict[str, Any] = {"id": self.item_id(part)}
        if part.kind == "reasoning":
            return {**item, "type": "reasoning", "summary": [], "content": []}
        if part.kind == "text":
            return {**item, "type": "message", "status": "in_progress", "role": "assistant", "content": []}
        called = {"type": "function_call", "status": "in_progress", "call_id": part.call_id, **self.function(part)}
        return {**item, **called, "arguments": ""}

    def function(self, part: Part) -> dict[str, str]:
        """What a call calls, by name and, where there is one, namespace."""
        namespace, name = self._names.get(part.name, ("", part.name))
        return {"name": name, **({"namespace": namespace} if namespace else {})}

    def item(self, part: Part, status: str) -> dict[str, Any]:
        """A part's item as it is now."""
        item = self.opened(part)
        if part.kind == "call":
            return {**item, "status": status, "arguments": part.text}
        item["content"] = [self.content(part)]
        if part.kind == "text":
            item["status"] = status
        elif self._is_packed:
            item["encrypted_content"] = packed(part.text)
        return item

    def content(self, part: Part) -> dict[str, Any]:
        """The one content part of a text or of reasoning."""
        if part.kind == "reasoning":
            return {"type": "reasoning_text", "text": part.text}
        return {"type": "output_text", "text": part.text, "annotations": [], "logprobs": logprobs(part.logprobs)}


def new_response(body: ResponsesBody, response_id: str, model: str, *, is_stored: bool) -> dict[str, Any]:
    """A response of which nothing is there yet but what was asked."""
    format_ = body.text.format.model_dump(by_alias=True, exclude_none=True) if body.text and body.text.format else None
    choice = body.tool_choice or "auto"
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": bool(body.background),
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": is_stored,
        "temperature": body.temperature,
        "text": {"format": format_ or {"type": "text"}, "verbosity": "medium"},
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(exclude_none=True),
        "tools": [_tool(tool.model_dump(exclude_none=True)) for tool in body.tools or ()],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": body.top_p,
        "truncation": body.truncation or "disabled",
        "usage": None,
        "user": body.user,
    }


def status_of(finished: Finished) -> Status:
    """What an answer that ended makes of its response."""
    return "incomplete" if finished.reason in INCOMPLETE else "completed"


def finish(
    response: dict[str, Any], output: Output, parts: Sequence[Part], finished: Finished, usage: Mapping[str, Any]
) -> None:
    """Write an answer that ended into its response."""
    status = status_of(finished)
    last = len(parts) - 1
    response |= {
        "status": status,
        "completed_at": int(time.time()) if status == "completed" else None,
        "incomplete_details": {"reason": INCOMPLETE[finished.reason]} if status == "incomplete" else None,
        "output": [output.item(part, status if part.position == last else "completed") for part in parts],
        "usage": response_usage(usage),
    }


def fail(response: dict[str, Any], output: Output, parts: Sequence[Part], error: RequestError) -> None:
    """Write into a response why it failed, and what had come before."""
    code = {429: "rate_limit_exceeded", 400: "invalid_prompt"}.get(error.status, "server_error")
    response |= {
        "status": "failed",
        "error": {"code": code, "message": error.message},
        "output": [output.item(part, "incomplete" if part.is_open else "completed") for part in parts],
    }


def response_usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    """The usage of a chat completion, in this API's words."""
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {**usage["prompt_tokens_details"], "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {
            "reasoning_tokens": usage.get("completion_tokens_details", {}).get("reasoning_tokens", 0)
        },
        "total_tokens": usage["total_tokens"],
    }


def logprobs(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Tokens with how likely they were."""

    def entry(token: TokenLogprob) -> dict[str, Any]:
        return {"token": token.text, "logprob": token.logprob, "bytes": list(token.raw)}

    return [{**entry(token), "top_logprobs": [entry(other) for other in token.top]} for token in tokens]


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool as it is told back: the client's types have its schema and strict always."""
    return {"parameters": None, "strict": None, **tool}
