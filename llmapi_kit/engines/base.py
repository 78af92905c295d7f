"""The Engine protocol: whatever can answer a request. The API knows nothing else.

An engine is made by `llmapi_kit.kit.load` or by a third party. All of its methods may be called from any thread
and any event loop; `generate` runs on the caller's loop.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from llmapi_kit.errors import InvalidRequestError
from llmapi_kit.ids import random_hex
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Embedded, EngineInfo, EngineStats, Event, GeneratedImage, ImageRequest, Readiness, Score

# Variables of chat templates that switch thinking on and off, and efforts that a model which doesn't think makes.
THINKING_SWITCHES = ("enable_thinking", "thinking")
LEAST_EFFORTS = ("none", "minimal")

Message = Mapping[str, Any]
Tool = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Which tools an answer may call.

    Attributes:
        tools: OpenAI-shaped definitions: ``{"type": "function", "function": {"name", "description", "parameters"}}``.
        is_required: whether the answer must call one.
        forced: the function it must call; empty for its own choice.
        is_parallel: whether it may call several.
    """

    tools: Sequence[Tool]
    is_required: bool = False
    forced: str = ""
    is_parallel: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """What to answer: a conversation, or a prompt as text or token ids. Exactly one of the two is set.

    Attributes:
        messages: OpenAI-shaped messages: ``role``, ``content`` (text or None), ``tool_calls``, ``tool_call_id``; oldest
            first.
        prompt: text, or token ids, to continue.
        suffix: text that follows what is made; for models with fill-in-the-middle tokens.
        sampling: how to choose tokens and when to stop.
        n: how many answers to make; with a seed, each draws other numbers from it.
        best_of: candidates to make, of which the n with the highest mean log-probability a token are given, when all
            are complete; 0 for no more than n.
        num_beams: hypotheses of a beam search, of which the n best are given; 1 for none.
        length_penalty: of the beam search: an answer's log-probability is divided by its length to the power of this.
        echo: give the prompt out before the answer; with logprobs, its tokens are scored too.
        tools: what the answer may call; None where it may not.
        reasoning_effort: how long to think first, for models whose template takes it: ``none``, ``low`` and so on.
        template_options: further variables of the chat template.
        is_continuing: go on with the last message, which is the assistant's, in place of beginning a new one.
        has_generation_prompt: end the prompt with what begins an answer.
        ends_at_context: where `max_tokens` is more than the context has room for, answer up to its end, and refuse
            nothing.
        cache_salt: cached prefixes are shared between requests with the same one only.
        key_id: the id of the key that it came with: where requests wait, keys take turns.
        affinity: requests with the same one, such as a conversation's, are best served alike: by the same upstream key.
        id: for logs.
    """

    messages: Sequence[Message] | None = None
    prompt: str | Sequence[int] | None = None
    suffix: str | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    n: int = 1
    best_of: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    echo: bool = False
    tools: ToolUse | None = None
    reasoning_effort: str | None = None
    template_options: Mapping[str, Any] = field(default_factory=dict)
    is_continuing: bool = False
    has_generation_prompt: bool = True
    ends_at_context: bool = False
    cache_salt: str = ""
    key_id: str = ""
    affinity: str = ""
    id: str = field(default_factory=lambda: random_hex(16))

    def __post_init__(self) -> None:
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("A GenerationRequest has either messages or a prompt.")
        if self.n < 1 or (self.best_of and self.best_of < self.n):
            raise ValueError(f"n is {self.n}, best_of is {self.best_of}: n is at least 1, best_of at least n.")
        if self.num_beams > 1:
            self._check_beams()
        elif self.length_penalty != 1:
            raise InvalidRequestError("length_penalty goes with num_beams above 1 only.", param="length_penalty")

    def _check_beams(self) -> None:
        """A beam search does not sample and compares whole answers: what it can't honour is refused.

        Raises:
            InvalidRequestError: it names the parameter.
        """
        params = self.sampling
        if self.num_beams < self.n:
            raise InvalidRequestError(f"n is {self.n}; num_beams is {self.num_beams} and gives no more.", param="n")
        clashes = {
            "best_of": self.best_of > self.n,
            "echo": self.echo,
            "temperature": not params.is_greedy,
            "logit_bias": bool(params.logit_bias),
            "stop": bool(params.stop),
            "logprobs": params.logprobs is not None,
            "min_tokens": params.min_tokens > 0,
            "repetition_penalty": params.repetition_penalty != 1,
            "presence_penalty": params.presence_penalty != 0,
            "frequency_penalty": params.frequency_penalty != 0,
            "tools": self.tools is not None,
        }
        if params.constraint is not None:
            clashes[params.constraint.param] = True
        for param, is_clash in clashes.items():
            if is_clash:
                raise InvalidRequestError(
                    f"{param} does not go with num_beams={self.num_beams}: a beam search takes the likeliest whole "
                    "answer. Leave one of the two out.",
                    param=param,
                )


@dataclass(frozen=True, slots=True)
class Truncation:
    """What to do with an input that is too long: cut it, in place of refusing it.

    Attributes:
        num_tokens: what is left at most, special tokens included; None for as many as the model reads.
        side: where it is cut.
    """

    num_tokens: int | None = None
    side: Literal["start", "end"] = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """What to embed, and how.

    Attributes:
        inputs: texts or token ids.
        prompt_name: which of the model's prompts stands before each text; empty for none, None for the model's own.
        truncation: None refuses what is too long.
        key_id: the id of the key that it came with: where requests wait, keys have shares.
    """

    inputs: Sequence[str | Sequence[int]]
    prompt_name: str | None = None
    truncation: Truncation | None = None
    key_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """Pairs of texts, to be told how well the second one answers the first.

    Attributes:
        pairs: query and document.
        truncation: see `EmbeddingRequest`; of a pair, the longer text is cut first.
        max_document_tokens: documents are cut to so many tokens before; None for no such limit.
        param: the field that the documents came in.
        key_id: see `EmbeddingRequest`.
    """

    pairs: Sequence[tuple[str, str]]
    truncation: Truncation | None = None
    max_document_tokens: int | None = None
    param: str = "documents"
    key_id: str = ""


def switches_thinking_off(name: str, value: object) -> bool:
    """Whether a variable of the chat template asks for nothing where the model doesn't think anyway."""
    return name in THINKING_SWITCHES and value is False


@runtime_checkable
class Engine(Protocol):
    """Answers requests. `llmapi_kit.engines.mock.MockEngine` is the smallest complete one."""

    @property
    def info(self) -> EngineInfo:
        """What it is; constant while it lives."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """Answer a request.

        The first event is `Accepted`; the last one is `Failed`, or the `Finished` of the last of n answers.
        Closing the generator, or cancelling the task that waits for it, stops the generation.

        Raises:
            RequestError: before the first event, when the request can't be taken: bad values, prompt over the
                context, queue full, engine closed.
        """
        ...

    async def embed(self, inputs: Sequence[str | Sequence[int]], *, cache_salt: str = "") -> list[Embedded]:
        """Embed texts or token ids, each into one vector; cancelling the task stops the work.

        Raises:
            RequestError: one can't be taken, or it failed; an `UnsupportedFieldError` where the engine can't embed.
        """
        ...

    async def tokenize(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids of a text, with or without the special tokens that a prompt would get."""
        ...

    async def tokenize_chat(self, request: GenerationRequest) -> list[int]:
        """Token ids of a request's conversation, as its prompt would be."""
        ...

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included.

        Raises:
            InvalidRequestError: an id is not in the vocabulary.
        """
        ...

    def readiness(self) -> Readiness:
        """Whether a request sent now would be answered, and why not."""
        ...

    def stats(self) -> EngineStats:
        """A snapshot of its counters."""
        ...

    def close(self) -> None:
        """Stop; requests under way end in `Failed`. Safe to call twice. May block for some seconds."""
        ...


@runtime_checkable
class DeferredEngine(Engine, Protocol):
    """What an engine has besides whose model is loaded when it is first asked for."""

    async def prepare(self) -> None:
        """Wait until the model is loaded, so that `info` tells what it can do.

        Raises:
            EngineUnavailableError: it could not be loaded, or not in time.
        """
        ...

    def load(self) -> None:
        """The same, blocking, and without a limit of time; an interrupt ends the wait, not the load.

        Raises:
            LlmApiKitError: what loading it raised.
        """
        ...


@runtime_checkable
class SteppingEngine(Protocol):
    """What an engine has besides that computes in steps, so that one that hangs can be told."""

    def step_started(self) -> float | None:
        """When the oldest step that is being computed began, by `time.monotonic`; None where none is."""
        ...


@runtime_checkable
class ImageEngine(Protocol):
    """What an engine with the capability ``images`` has besides."""

    async def generate_images(self, request: ImageRequest) -> list[GeneratedImage]:
        """Make pictures; cancelling the task stops the work.

        Raises:
            RequestError: they can't be made.
        """
        ...


@runtime_checkable
class Embedder(Protocol):
    """What an engine with the capability ``rerank`` has besides: embedding models and rerankers."""

    async def embed_request(self, request: EmbeddingRequest) -> list[Embedded]:
        """As `Engine.embed`, with a prompt and with long inputs cut; cancelling the task stops the work.

        Raises:
            RequestError: an input can't be taken, or it failed.
        """
        ...

    async def score(self, request: ScoreRequest) -> list[Score]:
        """A score for each pair, in their order; cancelling the task stops the work.

        Raises:
            RequestError: a pair can't be taken, or it failed.
        """
        ...
