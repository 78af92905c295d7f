"""POST /v1/completions, OpenAI's older API: continue a prompt.

Source: OpenAI API reference, "Completions (legacy)".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmapi_kit.api.openai.completion_body import CompletionBody
from llmapi_kit.api.openai.generation import ChunkUsage, Generation, StreamFormat, frame, start
from llmapi_kit.api.openai.response_schemas import Completion, CompletionChunk
from llmapi_kit.api.openapi import answers, examples
from llmapi_kit.api.routes import KeyedRoute
from llmapi_kit.api.sse import EventStream, while_connected
from llmapi_kit.api.state import state_of
from llmapi_kit.types import Delta, Finished, TokenLogprob

router = APIRouter(route_class=KeyedRoute, tags=["completions"])


@router.post(
    "/v1/completions",
    summary="Continue a prompt",
    response_model=None,
    responses=answers(Completion, event=CompletionChunk),
    openapi_extra=examples(A_text={"prompt": "The sun", "max_tokens": 16}, Token_ids={"prompt": [5, 6, 7]}),
)
async def create_completion(body: CompletionBody, request: Request) -> Response:
    """Continue a prompt, at once or as server-sent events.

    No chat template is applied; an instruction template only where the server's settings have one.
    """
    state = state_of(request)
    body.check()
    engine = await state.catalog.find(body.model)
    template = state.settings.instruction_template
    requests = body.requests(engine.info.defaults, state.key_check.key_id, template)
    generation = await start(state, engine, requests, "cmpl-")
    if body.stream:
        frames = generation.stream(CompletionStreamFormat(generation, body), include_usage=body.includes_usage)
        return EventStream(frames, state.settings, on_end=generation.close)
    answers = await while_connected(request.receive, generation.collect(), on_end=generation.close)
    choices = [
        {
            "index": answer.index,
            "text": answer.text,
            "logprobs": _logprobs(answer.logprobs, 0) if body.logprobs is not None else None,
            "finish_reason": answer.finish_reason,
        }
        for answer in answers
    ]
    return JSONResponse({**_base(generation), "choices": choices, "usage": generation.usage()})


class CompletionStreamFormat(StreamFormat):
    """StreamFormat of a stream."""

    def __init__(self, generation: Generation, body: CompletionBody) -> None:
        self._usage = ChunkUsage(generation, body.stream_options)
        self._base = _base(generation)
        self._offsets = [0] * generation.num_answers  # where each answer's next piece begins, in characters

    def delta(self, delta: Delta) -> bytes:
        """A piece of the answer."""
        logprobs = _logprobs(delta.logprobs, self._offsets[delta.index]) if delta.logprobs else None
        self._offsets[delta.index] += len(delta.text)
        return self._choice(delta.index, delta.text, logprobs=logprobs)

    def last(self, finished: Finished) -> bytes:
        """Why it ended."""
        return self._choice(finished.index, "", finish_reason=finished.reason)

    def usage(self, usage: dict[str, Any]) -> bytes:
        """The usage."""
        return frame({**self._base, "choices": [], "usage": usage})

    def _choice(self, index: int, text: str, *, logprobs: object = None, finish_reason: str | None = None) -> bytes:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
        return frame({**self._base, "choices": [choice], **self._usage.field()})


def _base(generation: Generation) -> dict[str, Any]:
    return {
        "id": generation.id,
        "object": "text_completion",
        "created": generation.created,
        "model": generation.model,
    }


def _logprobs(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [_top(token) for token in tokens],
        "text_offset": offsets,
    }


def _top(token: TokenLogprob) -> dict[str, float | None] | None:
    """The likeliest texts; null for the first token of a prompt, which nothing precedes."""
    return None if token.logprob is None else {other.text: other.logprob for other in token.top}
