"""POST /v1/chat/completions.

Source: OpenAI API reference, "Chat"; what its Python SDK needs stands in the tests.
"""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmapi_kit.api.openai.answer_collector import ChatAnswer
from llmapi_kit.api.openai.chat_body import ChatBody
from llmapi_kit.api.openai.generation import ChunkUsage, Generation, StreamFormat, frame, start
from llmapi_kit.api.openai.response_schemas import ChatCompletion, ChatCompletionChunk
from llmapi_kit.api.openai.stored import check_store, store_completion
from llmapi_kit.api.openapi import answers, examples
from llmapi_kit.api.routes import KeyedRoute
from llmapi_kit.api.sse import EventStream, while_connected
from llmapi_kit.api.state import state_of
from llmapi_kit.types import Delta, Finished, TokenLogprob, ToolCallDelta

# json.dumps would make an encoder for every token
_quote = json.JSONEncoder(ensure_ascii=False).encode

router = APIRouter(route_class=KeyedRoute, tags=["chat"])


EXAMPLES = examples(
    A_question={"messages": [{"role": "user", "content": "What is the capital of France?"}]},
    A_stream={"messages": [{"role": "user", "content": "Hello!"}], "stream": True, "max_tokens": 50},
)


@router.post(
    "/v1/chat/completions",
    summary="Answer a conversation",
    response_model=None,
    responses=answers(ChatCompletion, event=ChatCompletionChunk),
    openapi_extra=EXAMPLES,
)
async def create_chat_completion(body: ChatBody, request: Request) -> Response:
    """Answer a conversation, at once or as server-sent events."""
    state = state_of(request)
    body.check()
    check_store(state, body)
    engine = await state.catalog.find(body.model)
    ask = body.request(engine.info.defaults, state.key_check.key_id)
    generation = await start(state, engine, [ask], "chatcmpl-")
    if body.stream:

        async def store(answers: list[ChatAnswer]) -> None:
            await store_completion(state, body, _completion(generation, answers, body))

        frames = generation.stream(
            ChatStreamFormat(generation, body),
            include_usage=body.includes_usage,
            on_complete=store if body.store else None,
        )
        return EventStream(frames, state.settings, on_end=generation.close)
    answers = await while_connected(request.receive, generation.collect(), on_end=generation.close)
    completion = _completion(generation, answers, body)
    if body.store:
        await store_completion(state, body, completion)
    return JSONResponse(completion)


class ChatStreamFormat(StreamFormat):
    """StreamFormat of a stream. What stays the same in every chunk is built once."""

    def __init__(self, generation: Generation, body: ChatBody) -> None:
        self._usage = ChunkUsage(generation, body.stream_options)
        self._base: dict[str, Any] = {
            "id": generation.id,
            "object": "chat.completion.chunk",
            "created": generation.created,
            "model": generation.model,
            **_service_tier(body),
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
        if not (delta.logprobs or delta.reasoning or delta.tool_calls or self._usage.is_there):
            return (self._before[delta.index] + _quote(delta.text) + self._after).encode()
        body: dict[str, Any] = {}
        if delta.reasoning:
            body["reasoning_content"] = delta.reasoning
        if delta.text or not (delta.reasoning or delta.tool_calls):
            body["content"] = delta.text
        if delta.tool_calls:
            body["tool_calls"] = [_call_delta(call) for call in delta.tool_calls]
        return self._choice(delta.index, body, logprobs=_logprobs(delta.logprobs) if delta.logprobs else None)

    def last(self, finished: Finished) -> bytes:
        """Why it ended."""
        return self._choice(finished.index, {}, finish_reason=finished.reason)

    def usage(self, usage: dict[str, Any]) -> bytes:
        """The usage."""
        return frame({**self._base, "choices": [], "usage": usage})

    def _choice(self, index: int, delta: object, *, logprobs: object = None, finish_reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return frame({**self._base, "choices": [choice], **self._usage.field()})


def _service_tier(body: ChatBody) -> dict[str, Any]:
    """For those who asked for a tier: there is one."""
    return {} if body.service_tier is None else {"service_tier": "default"}


def _completion(generation: Generation, answers: list[ChatAnswer], body: ChatBody) -> dict[str, Any]:
    choices = [
        {
            "index": answer.index,
            "message": _message(answer),
            "logprobs": _logprobs(answer.logprobs) if body.logprobs else None,
            "finish_reason": answer.finish_reason,
        }
        for answer in answers
    ]
    completion: dict[str, Any] = {
        "id": generation.id,
        "object": "chat.completion",
        "created": generation.created,
        "model": generation.model,
        "choices": choices,
        "usage": generation.usage(),
        **_service_tier(body),
    }
    if body.store:
        completion["metadata"] = body.metadata or {}
    return completion


def _message(answer: ChatAnswer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.tool_calls:
        message["content"] = answer.text or None
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.tool_calls
        ]
    return message


def _call_delta(call: ToolCallDelta) -> dict[str, Any]:
    """A piece of a call; the first one has its id and name."""
    if not call.id:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}


def _logprobs(tokens: list[TokenLogprob] | tuple[TokenLogprob, ...]) -> dict[str, Any]:
    def entry(token: TokenLogprob) -> dict[str, Any]:
        return {"token": token.text, "logprob": token.logprob, "bytes": list(token.raw)}

    content = [{**entry(token), "top_logprobs": [entry(other) for other in token.top]} for token in tokens]
    return {"content": content, "refusal": None}
