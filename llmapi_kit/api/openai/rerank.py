"""POST /v1/rerank and /v1/score: how well texts answer a query, by a reranker or by the vectors of an embedding model.

Source: Cohere's and Jina's "Rerank" (v1 and v2, which differ in what this answer has in common), vLLM's "Score API".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmapi_kit.api.openai.embeddings import MAX_INPUTS
from llmapi_kit.api.openai.request_body import StrictModel
from llmapi_kit.api.openai.response_schemas import Reranked, Scores
from llmapi_kit.api.openai.truncation import TruncatingBody
from llmapi_kit.api.openapi import answers, examples
from llmapi_kit.api.routes import KeyedRoute
from llmapi_kit.api.sse import while_connected
from llmapi_kit.api.state import ApiState, state_of
from llmapi_kit.api.token_estimate import prompt_tokens
from llmapi_kit.engines.base import Engine, ScoreRequest
from llmapi_kit.engines.embedder import embedder_of
from llmapi_kit.errors import InvalidRequestError, RequestTimeoutError
from llmapi_kit.ids import random_hex
from llmapi_kit.types import Score

router = APIRouter(route_class=KeyedRoute, tags=["rerank"])


class Document(StrictModel):
    """A text, as an object."""

    text: str


class RerankBody(TruncatingBody):
    """Body of POST /v1/rerank."""

    query: str = Field(description="What the documents are to answer.")
    documents: list[str | Document] = Field(description=f"Up to {MAX_INPUTS} texts, or objects with a text.")
    top_n: int | None = Field(
        None, description="Send the best so many only; all if left out.", json_schema_extra={"minimum": 1}
    )
    return_documents: bool | None = Field(None, description="False: send no texts back, only their indexes.")
    max_tokens_per_doc: int | None = Field(
        None, description="Cut each document to so many tokens first.", json_schema_extra={"minimum": 1}
    )

    def texts(self) -> list[str]:
        """The documents' texts.

        Raises:
            InvalidRequestError: there are none, or too many; or a number is out of range.
        """
        if not 1 <= len(self.documents) <= MAX_INPUTS:
            raise InvalidRequestError(
                f"documents has {len(self.documents)} texts; 1 to {MAX_INPUTS} are allowed.", param="documents"
            )
        for name in ("top_n", "max_tokens_per_doc"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InvalidRequestError(f"{name} is {value}; it must be at least 1.", param=name)
        return [each if isinstance(each, str) else each.text for each in self.documents]


class ScoreBody(TruncatingBody):
    """Body of POST /v1/score."""

    text_1: str | list[str] = Field(description="A query for all of text_2, or one for each.")
    text_2: str | list[str] = Field(description=f"What is compared with it: a text, or up to {MAX_INPUTS}.")

    def pairs(self) -> list[tuple[str, str]]:
        """Which texts are compared.

        Raises:
            InvalidRequestError: their numbers do not go together.
        """
        first = [self.text_1] if isinstance(self.text_1, str) else self.text_1
        second = [self.text_2] if isinstance(self.text_2, str) else self.text_2
        if not 1 <= len(second) <= MAX_INPUTS:
            raise InvalidRequestError(f"text_2 has {len(second)} texts; 1 to {MAX_INPUTS} are allowed.", param="text_2")
        if len(first) not in (1, len(second)):
            raise InvalidRequestError(
                f"text_1 has {len(first)} texts and text_2 has {len(second)}: text_1 is one, or as many.",
                param="text_1",
            )
        return list(zip(first * len(second) if len(first) == 1 else first, second, strict=True))


@router.post("/rerank", name="rerank_unversioned", include_in_schema=False)
@router.post("/v2/rerank", name="rerank_2", include_in_schema=False)
@router.post(
    "/v1/rerank",
    summary="Sort texts by how well they answer a query",
    response_model=None,
    responses=answers(Reranked),
    openapi_extra=examples(
        Three_texts={
            "query": "What do pandas eat?",
            "documents": ["Bamboo is their food.", "Paris is in France.", "Pandas live in China."],
            "top_n": 2,
        }
    ),
)
async def rerank(body: RerankBody, request: Request) -> Response:
    """Score each document against the query, and send them best first."""
    state = state_of(request)
    body.refuse_unsupported()
    texts = body.texts()
    ask = ScoreRequest(
        pairs=[(body.query, text) for text in texts],
        truncation=body.truncation(),
        max_document_tokens=body.max_tokens_per_doc,
        key_id=state.key_check.key_id,
    )
    engine = await state.catalog.find(body.model, "rerank")
    scores = await while_connected(request.receive, score(state, engine, ask))
    best = sorted(range(len(texts)), key=lambda index: -scores[index].value)[: body.top_n]
    results = [_result(index, scores[index], texts[index], body) for index in best]
    return JSONResponse({"id": f"rerank-{random_hex(16)}", **_common(engine, scores), "results": results})


@router.post("/score", name="score_unversioned", include_in_schema=False)
@router.post(
    "/v1/score",
    summary="Score pairs of texts",
    response_model=None,
    responses=answers(Scores),
    openapi_extra=examples(One_and_two={"text_1": "The sun", "text_2": ["A star", "A kind of cheese"]}),
)
async def create_score(body: ScoreBody, request: Request) -> Response:
    """Score each pair, in their order."""
    state = state_of(request)
    body.refuse_unsupported()
    ask = ScoreRequest(pairs=body.pairs(), truncation=body.truncation(), param="text_2", key_id=state.key_check.key_id)
    engine = await state.catalog.find(body.model, "rerank")
    scores = await while_connected(request.receive, score(state, engine, ask))
    data = [{"object": "score", "index": index, "score": each.value} for index, each in enumerate(scores)]
    made = {"id": f"score-{random_hex(16)}", "object": "list", "created": int(time.time())}
    return JSONResponse({**made, **_common(engine, scores), "data": data})


async def score(state: ApiState, engine: Engine, ask: ScoreRequest) -> list[Score]:
    """The scores, within the time that a request may take.

    Raises:
        RequestError: the engine gives none, or it failed.
    """
    scorer = embedder_of(engine)
    limit_s = state.settings.total_timeout_s
    async with state.counting(
        engine.info.id, lambda: sum(prompt_tokens(text) for pair in ask.pairs for text in pair)
    ) as counts:
        try:
            scores = await asyncio.wait_for(scorer.score(ask), limit_s)
        except asyncio.TimeoutError as exc:
            raise RequestTimeoutError(f"The request was not complete within {limit_s:g} s, so it was stopped.") from exc
        counts.embedding_tokens = sum(each.num_tokens for each in scores)
        return scores


def _result(index: int, scored: Score, text: str, body: RerankBody) -> dict[str, Any]:
    result: dict[str, Any] = {"index": index, "relevance_score": scored.value}
    return result if body.return_documents is False else {**result, "document": {"text": text}}


def _common(engine: Engine, scores: Sequence[Score]) -> dict[str, Any]:
    num_tokens = sum(each.num_tokens for each in scores)
    return {
        "model": engine.info.id,
        "method": "cosine" if "embeddings" in engine.info.capabilities else "cross-encoder",
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }
