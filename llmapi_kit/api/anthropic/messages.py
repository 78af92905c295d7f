"""POST /v1/messages and /v1/messages/count_tokens.

A thin way to the same engines as chat completions: blocks become messages, and what comes back becomes blocks. No
``anthropic-version`` is needed.

Source: Anthropic API reference, "Messages"; what its Python SDK needs stands in the tests.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmapi_kit.api.anthropic.body import NAMES, CountTokensBody, MessagesBody
from llmapi_kit.api.anthropic.errors import MessagesRoute
from llmapi_kit.api.anthropic.events import MessageStreamFormat, MessageWriter, frame
from llmapi_kit.api.anthropic.schemas import FAILURES, MessageEvent, ModelMessage, TokenCount
from llmapi_kit.api.openai.generation import Generation, start
from llmapi_kit.api.openai.renamed_error import renaming
from llmapi_kit.api.openapi import answers, examples
from llmapi_kit.api.owner import owner_of
from llmapi_kit.api.sse import EventStream, while_connected
from llmapi_kit.api.state import state_of
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Delta

router = APIRouter(route_class=MessagesRoute, prefix="/v1/messages", tags=["messages"])

PING = frame({"type": "ping"})


@router.post(
    "",
    summary="Answer messages",
    response_model=None,
    responses=answers(ModelMessage, event=MessageEvent) | FAILURES,
    openapi_extra=examples(
        A_question={"max_tokens": 100, "messages": [{"role": "user", "content": "What is the capital of France?"}]},
        A_stream={"max_tokens": 50, "messages": [{"role": "user", "content": "Hello!"}], "stream": True},
    ),
)
async def create_message(body: MessagesBody, request: Request) -> Response:
    """Answer a conversation, at once or as server-sent events."""
    state = state_of(request)
    body.check()
    engine = await state.catalog.find(body.model)
    with renaming(NAMES):
        ask = body.request(body.sampling(engine.info.defaults), owner_of(request))
        generation = await start(state, engine, [ask], "msg_")
    writer = MessageWriter(generation, body)
    if body.stream:
        frames = generation.stream(MessageStreamFormat(writer), include_usage=False)
        return EventStream(frames, state.settings, on_end=generation.close, keep_alive=PING)
    message = await while_connected(request.receive, _whole(generation, writer), on_end=generation.close)
    return JSONResponse(message)


@router.post(
    "/count_tokens",
    summary="Count the tokens of messages",
    response_model=None,
    responses=answers(TokenCount) | FAILURES,
    openapi_extra=examples(A_question={"messages": [{"role": "user", "content": "Hello!"}]}),
)
async def count_tokens(body: CountTokensBody, request: Request) -> dict[str, int]:
    """How many tokens the prompt of a message would have."""
    body.check()
    engine = await state_of(request).catalog.find(body.model)
    with renaming(NAMES):
        ids = await engine.tokenize_chat(body.request(SamplingParams(constraint=body.constraint()), owner_of(request)))
    return {"input_tokens": len(ids)}


async def _whole(generation: Generation, writer: MessageWriter) -> dict[str, Any]:
    async with aclosing(generation.follow()) as events:
        async for event in events:
            for _ in writer.read(event) if isinstance(event, Delta) else writer.end(event):
                pass
    return writer.message()
