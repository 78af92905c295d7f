"""`Model`: what `kit.load` returns. An engine with the few synchronous methods a cell wants.

Knows nothing of servers. Generation runs on the engine's threads; the cell only waits, so interrupting it stops the
generation and harms nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from llmapi_kit.engines.base import (
    DeferredEngine,
    EmbeddingRequest,
    Engine,
    GenerationRequest,
    Message,
    ScoreRequest,
    Truncation,
)
from llmapi_kit.engines.embedder import embedder_of
from llmapi_kit.errors import ConfigError, UnsupportedFieldError
from llmapi_kit.images.attach import with_images
from llmapi_kit.loading.adapters import ModelAdapters
from llmapi_kit.loading.memory_release import release_memory
from llmapi_kit.sampling.parameters import SamplingParams, with_off_values
from llmapi_kit.types import Delta, EngineInfo, EngineStats, Failed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranked:
    """A text that was compared with a query.

    Attributes:
        index: its place among the texts that were given.
        score: higher is better; its range is the model's.
        text: itself.
    """

    index: int
    score: float
    text: str


class Model:
    """A loaded model.

    Args:
        engine: who answers.
        load_s: how long loading took.

    Attributes:
        engine: the engine, for code that wants events.
        load_s: seconds that loading took.
    """

    def __init__(self, engine: Engine, load_s: float = 0.0) -> None:
        self.engine = engine
        self.load_s = load_s
        self._is_closed = False

    @property
    def name(self) -> str:
        """What clients pass as ``model``."""
        return self.engine.info.id

    @property
    def info(self) -> EngineInfo:
        """Context length, size, device and so on."""
        return self.engine.info

    @property
    def adapters(self) -> ModelAdapters:
        """Its LoRA adapters, which are added, removed and listed here; a table in a cell.

        Each answers to a name of its own, ``base:name``, beside the model and in the same steps.
        """
        return ModelAdapters(self.engine)

    @property
    def is_closed(self) -> bool:
        """Whether it was closed and its memory given back."""
        return self._is_closed

    def stream(self, prompt: str | Sequence[Message], *, images: Sequence[Any] = (), **sampling: Any) -> Iterator[str]:
        """Answer, piece by piece.

        Args:
            prompt: a question, or a conversation as a list of messages. A model without a chat template continues
                a text.
            images: with a question, to a model that sees: paths, bytes of files, Pillow images or arrays; see
                `llmapi_kit.images.attach.with_images`.
            sampling: as in `SamplingParams`: ``max_tokens``, ``temperature``, ``seed``…; what is left out is the
                model's own default.

        Raises:
            RequestError: the request can't be served.
            ConfigError: what is not a picture was given as one.
            ModelError: it had to be loaded first, and that failed.

        Examples:
            >>> for piece in kit.load("mock").stream("Hello there!"):
            ...     print(repr(piece))
            'Hello'
            ' there!'
        """
        self._load()
        params = SamplingParams(**with_off_values({**self.info.defaults, **sampling}))
        if images:
            if not isinstance(prompt, str):
                raise ConfigError("images go with a question; in a conversation they are parts of its messages.")
            prompt = [with_images(prompt, images)]
        if isinstance(prompt, str) and "chat" not in self.info.capabilities:
            request = GenerationRequest(prompt=prompt, sampling=params)
        else:
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            request = GenerationRequest(messages=messages, sampling=params)
        for event in iterate(self.engine.generate(request)):
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Delta) and event.text:
                yield event.text

    def ask(self, prompt: str | Sequence[Message], *, images: Sequence[Any] = (), **sampling: Any) -> str:
        """The whole answer; see `stream`.

        Examples:
            >>> kit.load("mock").ask("Hello there!", max_tokens=1)
            'Hello'
        """
        return "".join(self.stream(prompt, images=images, **sampling))

    @overload
    def embed(self, texts: str, *, prompt_name: str | None = None, truncate: bool = False) -> list[float]: ...
    @overload
    def embed(
        self, texts: list[str] | tuple[str, ...], *, prompt_name: str | None = None, truncate: bool = False
    ) -> list[list[float]]: ...
    def embed(
        self, texts: str | list[str] | tuple[str, ...], *, prompt_name: str | None = None, truncate: bool = False
    ) -> list[float] | list[list[float]]:
        """The vector of a text, or a list of those of several.

        Args:
            texts: one, or several.
            prompt_name: which of the model's prompts stands before each; its own default unless given.
            truncate: cut texts that are too long, in place of an error.

        Raises:
            RequestError: the model makes none, or can't take a text.
            ModelError: it had to be loaded first, and that failed.

        Examples:
            >>> model = kit.load("pocket-embed")
            >>> len(model.embed("The dog runs."))
            128
        """
        self._load()
        inputs = [texts] if isinstance(texts, str) else list(texts)
        if "embeddings" not in self.info.capabilities:
            raise UnsupportedFieldError(
                f"The model {self.name!r} makes no embeddings. Load one that does, such as "
                'kit.load_embeddings("pocket-embed").',
                param="model",
            )
        if prompt_name is None and not truncate:
            embedded = _wait(self.engine.embed(inputs))
        else:
            request = EmbeddingRequest(
                inputs=inputs, prompt_name=prompt_name, truncation=Truncation() if truncate else None
            )
            embedded = _wait(embedder_of(self.engine).embed_request(request))
        vectors = [list(each.vector) for each in embedded]
        return vectors[0] if isinstance(texts, str) else vectors

    def rerank(
        self, query: str, documents: Sequence[str], *, top_n: int | None = None, truncate: bool = False
    ) -> list[Ranked]:
        """Texts by how well they answer a query, the best first.

        A reranker reads query and text together; of an embedding model the vectors are compared.

        Args:
            query: what they are to answer.
            documents: the texts.
            top_n: how many to give back; all unless given.
            truncate: cut texts that are too long, in place of an error.

        Raises:
            RequestError: the model scores no texts, or can't take one.
            ModelError: it had to be loaded first, and that failed.

        Examples:
            >>> model = kit.load("pocket-embed")
            >>> model.rerank("The doctor treated the patient", ["the team won", "a nurse in the hospital"])[0].text
            'a nurse in the hospital'
        """
        self._load()
        request = ScoreRequest(
            pairs=[(query, text) for text in documents], truncation=Truncation() if truncate else None
        )
        scores = _wait(embedder_of(self.engine).score(request))
        ranked = [Ranked(index, each.value, documents[index]) for index, each in enumerate(scores)]
        return sorted(ranked, key=lambda each: -each.score)[:top_n]

    def _load(self) -> None:
        """Only when it is loaded is it known what a model can do."""
        if isinstance(self.engine, DeferredEngine):
            self.engine.load()

    def stats(self) -> EngineStats:
        """A snapshot of its counters.

        Examples:
            >>> model = kit.load("mock", served_name="counted")
            >>> _ = model.ask("Hello!")
            >>> model.stats().num_finished
            1
        """
        return self.engine.stats()

    def close(self) -> int:
        """Unload it and give its memory back; what it is answering ends in an error. Safe to call twice.

        Returns:
            Bytes of GPU memory given back to the system.

        Examples:
            >>> model = kit.load("mock", served_name="short-lived")
            >>> _ = model.close()
            >>> model.is_closed
            True
        """
        self._is_closed = True
        self.engine.close()
        return release_memory()

    def __repr__(self) -> str:
        info = self.info
        if self._is_closed:
            return f"Model {info.id!r}, closed"
        if (readiness := self.engine.readiness()).state != "loaded":
            return f"Model {info.id!r}, {readiness.state}. {readiness.reason}"
        size = f"{info.num_parameters / 1e6:,.1f} M parameters, " if info.num_parameters else ""
        where = f"{info.dtype} on {info.device}, " if info.device else ""
        context = f"context {info.context_length:,}. " if info.context_length else ""
        return f"Model {info.id!r}: {size}{where}{context}{info.description}"


def _wait(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of its own, in a thread, as a cell's thread has a loop already."""

    async def once() -> AsyncGenerator[T, None]:
        yield await work

    (result,) = iterate(once())
    return result


def iterate(events: AsyncGenerator[T, None]) -> Iterator[T]:
    """Run an engine's events on a loop of their own thread, and yield them here.

    Leaving the loop early, or an interrupt, stops the generation.
    """
    pieces: queue.SimpleQueue[T | BaseException | None] = queue.SimpleQueue()
    loop = asyncio.new_event_loop()

    async def pump() -> None:
        try:
            async for event in events:
                pieces.put(event)
            pieces.put(None)
        except BaseException as exc:
            pieces.put(exc)
        finally:
            await events.aclose()

    task = loop.create_task(pump())

    def run() -> None:
        try:
            loop.run_until_complete(asyncio.wait([task]))
            loop.run_until_complete(loop.shutdown_asyncgens())  # an upstream's connections end with them
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="llmapi_kit generation", daemon=True)
    try:
        thread.start()
        while (piece := pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended by itself
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
