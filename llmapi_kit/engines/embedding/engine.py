"""Embedding models and rerankers as engines: texts in, vectors or scores out, and never an answer in words.

Knows nothing of HTTP. Texts are tokenized in worker threads, and computed on the encoding loop's own.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from typing import NoReturn

from llmapi_kit.config import Settings
from llmapi_kit.engines.base import EmbeddingRequest, GenerationRequest, ScoreRequest
from llmapi_kit.engines.embedding.encoding_loop import EncodingLoop, Job
from llmapi_kit.engines.embedding.text_reader import TextReader
from llmapi_kit.errors import UnsupportedFieldError
from llmapi_kit.runners.encoder import Encoder, EncoderInput
from llmapi_kit.types import Embedded, EngineInfo, EngineStats, Event, Readiness, Score

DEFAULT_MAX_QUEUE = 128
# Names that makers give the prompts of the two sides of a search; the first that a model has is taken
QUERY_PROMPTS = ("query", "search_query", "retrieval.query")
DOCUMENT_PROMPTS = ("document", "passage", "search_document", "retrieval.passage")


class EmbeddingEngine:
    """See `llmapi_kit.engines.base.Engine` and `llmapi_kit.engines.base.Embedder`.

    Args:
        info: what it tells of itself.
        encoder: owned from now on: closed with the engine.
        reader: makes token ids of texts.
        settings: queue and its timeout.
    """

    def __init__(
        self, info: EngineInfo, encoder: Encoder, reader: TextReader, settings: Settings | None = None
    ) -> None:
        settings = settings or Settings()
        self.info = info
        self._reader = reader
        self._makes_vectors = "embeddings" in info.capabilities
        self._loop = EncodingLoop(
            encoder,
            max_queue=settings.max_queue or DEFAULT_MAX_QUEUE,
            queue_timeout_s=settings.queue_timeout_s,
            name=f"llmapi_kit engine {info.id}",
        )

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """Refuse, by what was sent; see `Engine.generate`."""
        self._refuse_to_write("messages" if request.messages is not None else "prompt")
        yield  # what makes it a generator

    async def embed(self, inputs: Sequence[str | Sequence[int]], *, cache_salt: str = "") -> list[Embedded]:
        """See `Engine.embed`."""
        return await self.embed_request(EmbeddingRequest(inputs=inputs, key_id=cache_salt))

    async def embed_request(self, request: EmbeddingRequest) -> list[Embedded]:
        """See `Embedder.embed_request`."""
        if not self._makes_vectors:
            raise UnsupportedFieldError(
                f"The model {self.info.id!r} is a reranker and makes no embeddings. Use POST /v1/rerank or /v1/score.",
                param="model",
            )
        read = await asyncio.to_thread(self._reader.read, request.inputs, request.prompt_name, request.truncation)
        vectors = await self._compute(read, request.key_id)
        pairs = zip(read, vectors, strict=True)
        return [Embedded(tuple(vector), len(each.ids), index) for index, (each, vector) in enumerate(pairs)]

    async def score(self, request: ScoreRequest) -> list[Score]:
        """See `Embedder.score`."""
        pairs = await asyncio.to_thread(self._shortened, request)
        if self._makes_vectors:
            return await self._compare(pairs, request)
        read = await asyncio.to_thread(self._reader.read_pairs, pairs, request.truncation, request.param)
        scores = await self._compute(read, request.key_id)
        return [Score(score[0], len(each.ids)) for score, each in zip(scores, read, strict=True)]

    async def tokenize(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """See `Engine.tokenize`."""
        return await asyncio.to_thread(self._reader.encode, text, add_special_tokens=add_special_tokens)

    async def tokenize_chat(self, request: GenerationRequest) -> list[int]:
        """Refuse; see `Engine.tokenize_chat`."""
        self._refuse_to_write("messages")

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """See `Engine.detokenize`."""
        return await asyncio.to_thread(self._reader.decode, token_ids)

    def readiness(self) -> Readiness:
        """See `Engine.readiness`."""
        return self._loop.readiness()

    def step_started(self) -> float | None:
        """See `SteppingEngine.step_started`."""
        return self._loop.step_started()

    def stats(self) -> EngineStats:
        """See `Engine.stats`."""
        return self._loop.stats()

    def close(self) -> None:
        """See `Engine.close`."""
        self._loop.close()

    async def _compute(self, inputs: Sequence[EncoderInput], key_id: str) -> list[list[float]]:
        job = Job(inputs, key_id)
        if not inputs:
            return []
        self._loop.submit(job)
        return await asyncio.wrap_future(job.future)  # whose cancellation is the job's

    async def _compare(self, pairs: Sequence[tuple[str, str]], request: ScoreRequest) -> list[Score]:
        """Scores by the cosine of two vectors; each text is computed once."""
        sides = [list(dict.fromkeys(side)) for side in zip(*pairs, strict=True)] if pairs else [[], []]
        found: list[dict[str, tuple[list[float], int]]] = []
        for texts, names in zip(sides, (QUERY_PROMPTS, DOCUMENT_PROMPTS), strict=True):
            prompt = next((name for name in names if name in self._reader.prompts), None)
            read = await asyncio.to_thread(self._reader.read, texts, prompt, request.truncation)
            vectors = await self._compute(read, request.key_id)
            lengths = [len(each.ids) for each in read]
            found.append(dict(zip(texts, zip(vectors, lengths, strict=True), strict=True)))
        queries, documents = found
        counted: set[str] = set()
        scores = []
        for query, document in pairs:
            (a, num_a), (b, num_b) = queries[query], documents[document]
            scores.append(Score(_cosine(a, b), num_b + (0 if query in counted else num_a)))
            counted.add(query)
        return scores

    def _shortened(self, request: ScoreRequest) -> list[tuple[str, str]]:
        most = request.max_document_tokens
        if most is None:
            return list(request.pairs)
        return [(query, self._reader.shorten(document, most)) for query, document in request.pairs]

    def _refuse_to_write(self, param: str) -> NoReturn:
        kind, paths = "an embedding model", "POST /v1/embeddings"
        if not self._makes_vectors:
            kind, paths = "a reranker", "POST /v1/rerank or /v1/score"
        raise UnsupportedFieldError(
            f"The model {self.info.id!r} is {kind} and writes no text. Use {paths}, or name a chat model.", param=param
        )


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    lengths = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0
