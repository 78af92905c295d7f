"""The GLM API: /chat, /chat-stream, /tokenize and /embedding.

A conversation is a prompt and the pairs of question and answer before it. /tokenize is also vLLM's: a body with
`max_length`, and with no field that only vLLM knows, is answered the GLM way. What a reasoning model thinks first is
not part of these answers.

Source: the HTTP servers around ChatGLM models; names and order of fields are theirs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmapi_kit.api.compat.glm_schemas import (
    MAX_LENGTH,
    GlmAnswer,
    GlmChatBody,
    GlmEmbeddingBody,
    GlmEmbeddings,
    GlmStreamBody,
    GlmTokenizeBody,
    GlmTokens,
)
from llmapi_kit.api.openai.embeddings import MAX_INPUTS, embed
from llmapi_kit.api.openai.generation import Generation, StreamFormat, frame, start
from llmapi_kit.api.openai.tokens import TokenizeBody
from llmapi_kit.api.openapi import answers, examples, streams
from llmapi_kit.api.routes import KeyedRoute, read_body
from llmapi_kit.api.sse import EventStream, while_connected
from llmapi_kit.api.state import state_of
from llmapi_kit.api.variants import Variant
from llmapi_kit.engines.base import Engine, GenerationRequest
from llmapi_kit.errors import ContextLengthError, InvalidRequestError, UnsupportedFieldError
from llmapi_kit.types import Delta, Finished

router = APIRouter(route_class=KeyedRoute, tags=["GLM"])


@router.post(
    "/chat",
    summary="Answer a prompt after a history",
    response_model=None,
    responses=answers(GlmAnswer),
    openapi_extra=examples(
        A_question={"prompt": "And of Italy?", "history": [["What is the capital of France?", "Paris."]]}
    ),
)
async def glm_chat(body: GlmChatBody, request: Request) -> Response:
    """Answer a prompt, at once."""
    generation = await _start(body, request)
    (answer,) = await while_connected(request.receive, generation.collect(), on_end=generation.close)
    usage = generation.usage()
    return JSONResponse(_answer(generation, answer.text, usage["prompt_tokens"], usage["completion_tokens"]))


@router.post(
    "/chat-stream",
    summary="Answer a prompt after a history, piece by piece",
    response_model=None,
    response_class=Response,
    responses=streams(GlmAnswer),
    openapi_extra=examples(
        All_so_far={"prompt": "Hello!", "history": []}, Pieces={"prompt": "Hello!", "history": [], "chunk": True}
    ),
)
async def glm_chat_stream(body: GlmStreamBody, request: Request) -> Response:
    """Answer a prompt as server-sent events: each has the whole answer so far or, with `chunk`, what is new."""
    generation = await _start(body, request)
    frames = generation.stream(GlmStreamFormat(generation, is_cumulative=not body.chunk), include_usage=False)
    return EventStream(frames, state_of(request).settings, on_end=generation.close)


@router.post(
    "/embedding",
    summary="Embed texts, the GLM way",
    response_model=None,
    responses=answers(GlmEmbeddings),
    openapi_extra=examples(Two_texts={"prompt": ["The sun", "The moon"]}),
)
async def glm_embedding(body: GlmEmbeddingBody, request: Request) -> Response:
    """Turn each text into a vector."""
    state = state_of(request)
    body.refuse_unsupported()
    engine = await state.catalog.find(body.model, "embeddings")
    texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if not 1 <= len(texts) <= MAX_INPUTS:
        raise InvalidRequestError(f"prompt has {len(texts)} texts; 1 to {MAX_INPUTS} are allowed.", param="prompt")
    embedded = await while_connected(request.receive, embed(state, engine, texts))
    data = [list(each.vector) for each in embedded]
    return JSONResponse({"data": data, "model": engine.info.id, "object": "embedding"})


async def glm_tokenize(request: Request) -> Response:
    """A prompt's token ids, with special tokens, and its tokens, without."""
    body = await read_body(request, GlmTokenizeBody)
    body.refuse_unsupported()
    engine = await state_of(request).catalog.find(body.model)
    ids = await engine.tokenize(body.prompt, add_special_tokens=True)
    plain = await engine.tokenize(body.prompt)
    before, after = _special_tokens(ids, plain)
    num_special = len(before) + len(after)
    if body.max_length < max(num_special, 1):
        raise InvalidRequestError(
            f"max_length is {body.max_length}; with this model's special tokens it is at least {max(num_special, 1)}.",
            param="max_length",
        )
    kept = plain[: body.max_length - num_special]
    texts = {token_id: await engine.detokenize([token_id]) for token_id in set(kept)}
    return JSONResponse({"tokenIds": [*before, *kept, *after], "tokens": [texts[token_id] for token_id in kept]})


def is_glm_tokenize(body: Any) -> bool:
    """Whether a body for /tokenize is meant for this API."""
    if not isinstance(body, dict) or body.get("max_length") is None:
        return False
    foreign = TokenizeBody.model_fields.keys() - GlmTokenizeBody.model_fields.keys()
    return all(body.get(name) is None for name in foreign)


VARIANTS = (Variant("/tokenize", is_glm_tokenize, glm_tokenize, GlmTokenizeBody, GlmTokens),)


class GlmStreamFormat(StreamFormat):
    """Events of a stream, which all look like the answer.

    Args:
        generation: that is streamed.
        is_cumulative: whether each has all that was said so far.
    """

    def __init__(self, generation: Generation, *, is_cumulative: bool) -> None:
        self._generation = generation
        self._is_cumulative = is_cumulative
        self._text = ""
        self._num_prompt_tokens = generation.num_prompt_tokens  # which a model elsewhere may tell at the end only
        self._num_tokens = 0

    def delta(self, delta: Delta) -> bytes | None:
        """The answer so far, or its new piece."""
        self._text += delta.text
        self._num_tokens += delta.num_tokens
        if not delta.text:
            return None
        return self._frame(self._text if self._is_cumulative else delta.text)

    def last(self, finished: Finished) -> bytes:
        """The whole answer, or no new piece; with every token counted."""
        self._num_prompt_tokens = finished.num_prompt_tokens
        self._num_tokens = finished.num_completion_tokens
        return self._frame(self._text if self._is_cumulative else "")

    def end(self) -> None:
        """Nothing comes after the whole answer."""
        return None

    def _frame(self, content: str) -> bytes:
        return frame(_answer(self._generation, content, self._num_prompt_tokens, self._num_tokens))


async def _start(body: GlmChatBody, request: Request) -> Generation:
    """Hand the conversation to the engine."""
    state = state_of(request)
    body.refuse_unsupported()
    engine = await state.catalog.find(body.model)
    messages, sampling = body.conversation(), body.sampling(engine.info.defaults)
    max_tokens = await _room(body, engine, GenerationRequest(messages=messages))
    ask = GenerationRequest(
        messages=messages, sampling=replace(sampling, max_tokens=max_tokens), cache_salt=state.key_check.key_id
    )
    return await start(state, engine, [ask], "glm-")


async def _room(body: GlmChatBody, engine: Engine, conversation: GenerationRequest) -> int | None:
    """How many tokens the answer may have; None for as many as the engine likes.

    Raises:
        InvalidRequestError: max_length is too small.
        ContextLengthError: there is no room for an answer.
    """
    max_length = MAX_LENGTH if body.max_length is None else body.max_length
    if max_length < 1:
        raise InvalidRequestError(f"max_length is {max_length}; it must be at least 1.", param="max_length")
    try:
        num_prompt_tokens = len(await engine.tokenize_chat(conversation))
    except UnsupportedFieldError:
        return body.max_length
    context_length = engine.info.context_length or max_length
    if num_prompt_tokens >= min(max_length, context_length):
        limit = f"max_length is {max_length}" if max_length <= context_length else f"the context is {context_length}"
        raise ContextLengthError(
            f"Prompt and history have {num_prompt_tokens} tokens, and {limit}, the answer included. Shorten them.",
            param="prompt",
        )
    return min(max_length, context_length) - num_prompt_tokens


def _answer(generation: Generation, content: str, num_prompt_tokens: int, num_completion_tokens: int) -> dict[str, Any]:
    return {
        "content": content,
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_completion_tokens,
        "total_tokens": num_prompt_tokens + num_completion_tokens,
        "model": generation.model,
        "object": "chat.completion",
    }


def _special_tokens(ids: list[int], plain: list[int]) -> tuple[list[int], list[int]]:
    """What a tokenizer puts before and after a text's own tokens; where those can't be told apart, all are before."""
    for begin in range(len(ids) - len(plain) + 1):
        end = begin + len(plain)
        if ids[begin:end] == plain:
            return ids[:begin], ids[end:]
    return ids[: len(ids) - len(plain)], []
