"""POST /v1/chat/completions.

Source: OpenAI API reference, "Chat"; what its Python SDK needs stands in the tests.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmapi_kit.api.openai.generation import Generation, frame, start, usage_of
from llmapi_kit.api.openai.schemas import ChatBody
from llmapi_kit.api.routes import KeyedRoute
from llmapi_kit.api.sse import EventStream, while_connected
from llmapi_kit.api.state import state_of
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.types import Delta, Finished, TokenLogprob

# json.dumps would make an encoder for every token
_quote = json.JSONEncoder(ensure_ascii=False).encode

router = APIRouter(route_class=KeyedRoute, tags=["chat"])


@router.post("/v1/chat/completions", summary="Answer a conversation", response_model=None)
async def create_chat_completion(body: ChatBody, request: Request) -> Response:
    """Answer a conversation, at once or as server-sent events."""
    state = state_of(request)
    body.refuse_unsupported()
    engine = state.catalog.get(body.model)
    sampling = body.sampling(engine.info.defaults, logprobs=body.num_logprobs())
    ask = GenerationRequest(
        messages=body.conversation(), sampling=sampling, n=body.n or 1, cache_salt=state.key_check.key_id
    )
    generation = await start(state, engine, ask, "chatcmpl-")
    if body.stream:
        include_usage = bool(body.stream_options and body.stream_options.include_usage)
        frames = generation.stream(ChatChunks(generation), include_usage=include_usage)
        return EventStream(frames, state.settings, on_end=generation.close)
    answers = await while_connected(request.receive, generation.collect(), on_end=generation.close)
    choices = [
        {
            "index": answer.index,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": _logprobs(answer.logprobs) if body.logprobs else None,
            "finish_reason": answer.finished.reason,
        }
        for answer in answers
    ]
    return JSONResponse(
        {
            "id": generation.id,
            "object": "chat.completion",
            "created": generation.created,
            "model": generation.model,
            "choices": choices,
            "usage": usage_of([answer.finished for answer in answers]),
        }
    )


class ChatChunks:
    """Chunks of a stream. What stays the same in every chunk is built once."""

    def __init__(self, generation: Generation) -> None:
        self._base: dict[str, Any] = {
            "id": generation.id,
            "object": "chat.completion.chunk",
            "created": generation.created,
            "model": generation.model,
        }
        head = json.dumps(self._base, ensure_ascii=False, separators=(",", ":"))[:-1]
        self._before = [
            f'data: {head},"choices":[{{"index":{index},"delta":{{"content":' for index in range(generation.num_answers)
        ]
        self._after = '},"logprobs":null,"finish_reason":null}]}\n\n'

    def first(self, index: int) -> bytes:
        """The role."""
        return self._choice(index, {"role": "assistant", "content": ""})

    def delta(self, delta: Delta) -> bytes:
        """A piece of the answer."""
        if not delta.logprobs:
            return (self._before[delta.index] + _quote(delta.text) + self._after).encode()
        return self._choice(delta.index, {"content": delta.text}, logprobs=_logprobs(delta.logprobs))

    def last(self, finished: Finished) -> bytes:
        """Why it ended."""
        return self._choice(finished.index, {}, finish_reason=finished.reason)

    def usage(self, finished: Sequence[Finished]) -> bytes:
        """The usage."""
        return frame({**self._base, "choices": [], "usage": usage_of(finished)})

    def _choice(self, index: int, delta: object, *, logprobs: object = None, finish_reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return frame({**self._base, "choices": [choice]})


def _logprobs(tokens: list[TokenLogprob] | tuple[TokenLogprob, ...]) -> dict[str, Any]:
    def entry(token: TokenLogprob) -> dict[str, Any]:
        return {"token": token.text, "logprob": token.logprob, "bytes": list(token.raw)}

    content = [{**entry(token), "top_logprobs": [entry(other) for other in token.top]} for token in tokens]
    return {"content": content, "refusal": None}
