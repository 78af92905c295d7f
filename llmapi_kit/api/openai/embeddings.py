"""POST /v1/embeddings.

Source: OpenAI API reference, "Embeddings"; base64 is that of little-endian float32.
"""

from __future__ import annotations

import asyncio
import base64
import math
import struct
from collections.abc import Sequence
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmapi_kit.api.openai.response_schemas import EmbeddingList
from llmapi_kit.api.openai.truncation import TruncatingBody
from llmapi_kit.api.openapi import answers, examples
from llmapi_kit.api.routes import KeyedRoute
from llmapi_kit.api.sse import while_connected
from llmapi_kit.api.state import ApiState, state_of
from llmapi_kit.api.token_estimate import prompt_tokens
from llmapi_kit.engines.base import EmbeddingRequest, Engine
from llmapi_kit.engines.embedder import embedder_of
from llmapi_kit.errors import InvalidRequestError, RequestTimeoutError, UnsupportedFieldError
from llmapi_kit.types import Embedded

MAX_INPUTS = 2048

router = APIRouter(route_class=KeyedRoute, tags=["embeddings"])


class EmbeddingBody(TruncatingBody):
    """Body of POST /v1/embeddings."""

    input: str | list[str] | list[int] | list[list[int]] = Field(
        description=f"A text, token ids, or up to {MAX_INPUTS} of either."
    )
    encoding_format: Literal["float", "base64"] | None = Field(None, description="float if left out.")
    dimensions: int | None = Field(
        None, description="Shorten the vectors; for models trained for it.", json_schema_extra={"minimum": 1}
    )

    prompt_name: str | None = Field(
        None,
        description="Which of the model's prompts stands before each text, by a name of its card; empty for none, and "
        "the model's own default if left out.",
    )

    def inputs(self) -> list[str | list[int]]:
        """Each input.

        Raises:
            InvalidRequestError: there are none, or too many.
        """
        if isinstance(self.input, str):
            return [self.input]
        if not self.input:
            raise InvalidRequestError("input is empty; it needs a text or token ids.", param="input")
        ids = [each for each in self.input if isinstance(each, int)]
        if ids:
            return [ids]
        several = [each for each in self.input if not isinstance(each, int)]
        if len(several) > MAX_INPUTS:
            raise InvalidRequestError(
                f"input has {len(several)} inputs; at most {MAX_INPUTS} are allowed.", param="input"
            )
        return several

    def request(self, key_id: str) -> EmbeddingRequest:
        """What the engine is asked.

        Raises:
            InvalidRequestError: a value is out of range.
        """
        inputs = self.inputs()
        return EmbeddingRequest(
            inputs=inputs, prompt_name=self.prompt_name, truncation=self.truncation(), key_id=key_id
        )


@router.post(
    "/v1/embeddings",
    summary="Embed texts",
    response_model=None,
    responses=answers(EmbeddingList),
    openapi_extra=examples(Two_texts={"input": ["The sun", "The moon"]}),
)
async def create_embedding(body: EmbeddingBody, request: Request) -> Response:
    """Turn each input into a vector: an embedding model's own, or the mean of a chat model's last hidden states."""
    state = state_of(request)
    body.refuse_unsupported()
    ask = body.request(state.key_check.key_id)
    engine = await state.catalog.find(body.model, "embeddings")
    if body.dimensions is not None and "dimensions" not in engine.info.capabilities:
        raise UnsupportedFieldError(
            f"The vectors of {engine.info.id!r} can't be shortened; leave dimensions out.", param="dimensions"
        )
    _check_size(engine, body.dimensions)
    embedded = await while_connected(request.receive, embed_request(state, engine, ask))
    vectors = [_shorten(each.vector, body.dimensions) for each in embedded]
    encode = _base64 if body.encoding_format == "base64" else list
    num_tokens = sum(each.num_prompt_tokens for each in embedded)
    data = [{"object": "embedding", "index": i, "embedding": encode(vector)} for i, vector in enumerate(vectors)]
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return JSONResponse({"object": "list", "data": data, "model": engine.info.id, "usage": usage})


async def embed(state: ApiState, engine: Engine, inputs: Sequence[str | list[int]]) -> list[Embedded]:
    """The vectors of inputs, as the model makes them; see `embed_request`."""
    return await embed_request(state, engine, EmbeddingRequest(inputs=inputs, key_id=state.key_check.key_id))


async def embed_request(state: ApiState, engine: Engine, ask: EmbeddingRequest) -> list[Embedded]:
    """The vectors, within the time that a request may take.

    Raises:
        RequestError: the engine makes none, or it failed.
    """
    if "embeddings" not in engine.info.capabilities:
        hint = " It reranks: use POST /v1/rerank or /v1/score." if "rerank" in engine.info.capabilities else ""
        raise UnsupportedFieldError(f"The model {engine.info.id!r} makes no embeddings.{hint}", param="model")
    limit_s = state.settings.total_timeout_s
    async with state.counting(engine.info.id, lambda: sum(map(prompt_tokens, ask.inputs))) as counts:
        try:
            embedded = await asyncio.wait_for(_ask(engine, ask), limit_s)
        except asyncio.TimeoutError as exc:
            raise RequestTimeoutError(f"The request was not complete within {limit_s:g} s, so it was stopped.") from exc
        counts.embedding_tokens = sum(each.num_prompt_tokens for each in embedded)
        return embedded


async def _ask(engine: Engine, ask: EmbeddingRequest) -> list[Embedded]:
    """Ask an engine, which may be one that knows whole inputs only."""
    if "rerank" in engine.info.capabilities:
        return await embedder_of(engine).embed_request(ask)
    for param, is_asked in {"prompt_name": ask.prompt_name, "truncate_prompt_tokens": ask.truncation}.items():
        if is_asked:
            raise UnsupportedFieldError(
                f"The model {engine.info.id!r} embeds whole inputs as they are; leave {param} out.", param=param
            )
    return await engine.embed(ask.inputs, cache_salt=ask.key_id)


def _check_size(engine: Engine, dimensions: int | None) -> None:
    sizes = engine.info.embedding_sizes
    if dimensions is not None and sizes and dimensions not in sizes:
        raise InvalidRequestError(
            f"dimensions is {dimensions}; the vectors of {engine.info.id!r} can have {', '.join(map(str, sizes))}.",
            param="dimensions",
        )


def _shorten(vector: Sequence[float], dimensions: int | None) -> Sequence[float]:
    """The first dimensions, of length 1 again."""
    if dimensions is None:
        return vector
    if not 1 <= dimensions <= len(vector):
        raise InvalidRequestError(
            f"dimensions is {dimensions}; the vectors have {len(vector)}, so 1 to {len(vector)} are allowed.",
            param="dimensions",
        )
    norm = math.sqrt(sum(x * x for x in vector[:dimensions])) or 1.0
    return [x / norm for x in vector[:dimensions]]


def _base64(vector: Sequence[float]) -> Any:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
