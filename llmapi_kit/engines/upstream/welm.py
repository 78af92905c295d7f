"""WeLM only continues texts, in one piece: a conversation is written as a dialogue for it to go on with.

Its ``stop`` is a set of characters, so stop texts are not sent: the answer, which comes whole, is cut here.

Source: https://welm.weixin.qq.com/docs/api/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmapi_kit.engines.base import GenerationRequest, Message
from llmapi_kit.errors import UnsupportedFieldError

# Its own default is 16 tokens, into which no answer fits.
DEFAULT_MAX_TOKENS = 256
SPEAKERS = {"user": "用户：", "assistant": "助手："}  # noqa: RUF001 - the colon of Chinese text


def as_continuation(request: GenerationRequest) -> GenerationRequest:
    """A request that a model without conversations understands.

    Raises:
        UnsupportedFieldError: it has tools, or their calls and results.
    """
    sampling = request.sampling
    if sampling.max_tokens is None:
        sampling = replace(sampling, max_tokens=DEFAULT_MAX_TOKENS)
    if request.messages is None:
        return replace(request, sampling=sampling)
    if request.is_continuing:
        raise UnsupportedFieldError("WeLM can't go on with a message.", param="continue_final_message")
    # Else it would also write what the user says next
    sampling = replace(sampling, stop=(*sampling.stop[:3], f"\n{SPEAKERS['user']}"))
    return replace(request, messages=None, prompt=dialogue(request.messages), sampling=sampling)


def dialogue(messages: Sequence[Message]) -> str:
    """A conversation as a text that ends where the assistant speaks.

    Raises:
        UnsupportedFieldError: a message calls a tool or is a tool's.
    """
    lines = []
    for index, message in enumerate(messages):
        if message["role"] == "tool" or message.get("tool_calls"):
            raise UnsupportedFieldError("WeLM knows no tools.", param=f"messages.{index}")
        lines.append(SPEAKERS.get(str(message["role"]), "") + str(message["content"] or ""))
    return "\n".join([*lines, SPEAKERS["assistant"]])


def cut_at_stop(choice: Mapping[str, Any], stop: Sequence[str]) -> Mapping[str, Any]:
    """A whole answer up to the first stop text in it."""
    text = str(choice.get("text") or "")
    ends = [at for at in map(text.find, stop) if at >= 0]
    return {**choice, "text": text[: min(ends)], "finish_reason": "stop"} if ends else choice
