"""Value objects that cross rooms: what happened to a request, and what an engine is.

Knows nothing of HTTP, asyncio or tensors; every room may import it. All are immutable but `Latencies` and
`EngineStats`, which are counted up in place.

A request's life seen from outside is a sequence of events: one `Accepted`, any number of `Delta`, then one `Finished`
for each answer asked for, or one `Failed` for all of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from llmapi_kit.errors import RequestError

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
LoadState = Literal["unloaded", "loading", "loaded"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely one token was, by the model's own distribution (before temperature and penalties).

    Attributes:
        token_id: the id in the model's vocabulary; -1 where an upstream does not say.
        text: the token's text; U+FFFD stands where its bytes alone are not valid UTF-8.
        raw: the token's bytes.
        logprob: natural logarithm of its probability; None for the first token of a prompt, which nothing precedes.
        top: the most likely tokens at this position, best first; empty unless asked for.
    """

    token_id: int
    text: str
    raw: bytes
    logprob: float | None
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request passed every check and is queued.

    Attributes:
        num_prompt_tokens: length of the prompt after templating; 0 where an upstream says it at the end only.
    """

    num_prompt_tokens: int


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call. A call's first piece has its id and name, later ones add to its arguments.

    Attributes:
        index: which of the answer's calls, from 0.
        id: of the call; empty but in its first piece.
        name: of the function; empty but in the call's first piece.
        arguments: what to append to the arguments, a JSON text.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer. `text` may be empty while characters, markers or stop strings are held back.

    Attributes:
        text: what to append to the answer.
        num_tokens: tokens this piece stands for.
        logprobs: one entry a token, where asked for.
        index: which of several answers it belongs to.
        reasoning: what to append to the reasoning that precedes the answer.
        tool_calls: pieces of tool calls.
    """

    text: str
    num_tokens: int = 1
    logprobs: tuple[TokenLogprob, ...] = ()
    index: int = 0
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """An answer is complete.

    Attributes:
        reason: ``stop`` (end of turn, stop token or stop string), ``length`` (token limit reached),
            ``tool_calls`` (it ended and calls tools) or ``content_filter`` (an upstream's filter cut it).
        num_prompt_tokens: length of the prompt.
        num_completion_tokens: tokens made, the end-of-turn token included.
        num_cached_tokens: prompt tokens that a prefix cache spared.
        index: which of several answers it is.
        num_discarded_tokens: tokens of other candidates, made for this request and not sent.
        stop_string: the stop string that ended it; empty where none did, or an upstream does not say.
        num_image_tokens: prompt tokens that stand for pictures.
    """

    reason: FinishReason
    num_prompt_tokens: int
    num_completion_tokens: int
    num_cached_tokens: int = 0
    index: int = 0
    num_discarded_tokens: int = 0
    stop_string: str = ""
    num_image_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Embedded:
    """An input was embedded.

    Attributes:
        vector: of a chat model, the mean of the last hidden states over its tokens, of length 1 (hidden_size,); of an
            embedding model, what its makers made it for.
        num_prompt_tokens: length of the input.
        index: which of several inputs it is.
    """

    vector: tuple[float, ...]
    num_prompt_tokens: int
    index: int = 0


@dataclass(frozen=True, slots=True)
class Score:
    """How well a document answers a query.

    Attributes:
        value: higher is better; its range is the model's, often 0 to 1.
        num_tokens: that were read for it.
    """

    value: float
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """Pictures to make.

    Attributes:
        prompt: what to show.
        n: how many.
        size: such as ``1024x1024``; empty for the engine's own.
        quality: such as ``hd``; empty for the engine's own.
        style: such as ``vivid``; empty for the engine's own.
        wants_url: give addresses rather than the pictures themselves, where the engine can.
        affinity: see `llmapi_kit.engines.base.GenerationRequest`.
    """

    prompt: str
    n: int = 1
    size: str = ""
    quality: str = ""
    style: str = ""
    wants_url: bool = False
    affinity: str = ""


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """A picture that was made. Exactly one of `url` and `data` is set.

    Attributes:
        url: where it can be fetched, for a while.
        data: the file itself.
        media_type: of `data`, such as ``image/png``.
        revised_prompt: the prompt it was really made from, where that differs.
    """

    url: str = ""
    data: bytes = b""
    media_type: str = "image/png"
    revised_prompt: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """The request ended without all of its answers; `error` says why."""

    error: RequestError


Event = Accepted | Delta | Finished | Embedded | Failed


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine tells of itself.

    Attributes:
        id: the name clients pass as ``model``.
        context_length: prompt and answer together, in tokens; 0 where there is no fixed limit.
        created: Unix time, in seconds, the model was loaded at.
        owned_by: who made or serves the model.
        description: one sentence for people.
        capabilities: words such as ``chat``, ``completions``, ``embeddings``, ``rerank``.
        num_parameters: weights of the model; 0 where unknown.
        device: ``cpu``, ``cuda:0``, or empty where the model is not on this machine.
        dtype: of weights and KV cache, or empty.
        defaults: sampling parameters the model's makers recommend, used where a request says nothing.
        embedding_size: numbers in a vector of an embedding model; 0 for other models.
        embedding_sizes: lengths that such a vector can be cut to; empty where it can't, or to any.
        prompts: names of the texts that an embedding model may have put before an input.
        parent: of an adapter: the model that it is one of; empty for a model.
        root: of an adapter: what it was loaded from, without the folders above it; empty for a model.
    """

    id: str
    context_length: int
    created: int
    owned_by: str = "llmapi_kit"
    description: str = ""
    capabilities: tuple[str, ...] = ("chat", "completions")
    num_parameters: int = 0
    device: str = ""
    dtype: str = ""
    defaults: Mapping[str, float] = field(default_factory=dict)
    embedding_size: int = 0
    embedding_sizes: tuple[int, ...] = ()
    prompts: tuple[str, ...] = ()
    parent: str = ""
    root: str = ""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether an engine can answer, and the reason when it can't.

    Attributes:
        ready: whether a request sent now would be answered, be it after its model was loaded.
        reason: why not; of a model that is not loaded, what is known of that.
        state: whether the model is in memory.
    """

    ready: bool
    reason: str = ""
    state: LoadState = "loaded"


LATENCY_BOUNDS_S = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2, 5, 10, 30, 60,
)  # fmt: skip


@dataclass(slots=True)
class Latencies:
    """How long something took, as a histogram over `LATENCY_BOUNDS_S`.

    Attributes:
        counts: observations up to each bound, and, last, those above all; not cumulative.
        total_s: their sum in seconds.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_S) + 1))
    total_s: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(LATENCY_BOUNDS_S, seconds)] += 1
        self.total_s += seconds

    def plus(self, other: Latencies) -> Latencies:
        """Both together."""
        return Latencies([a + b for a, b in zip(self.counts, other.counts, strict=True)], self.total_s + other.total_s)

    def copy(self) -> Latencies:
        """One that does not change any more."""
        return Latencies(list(self.counts), self.total_s)

    def quantile(self, share: float) -> float:
        """Upper bound, in seconds, of the bucket that the quantile lies in; 0 without observations."""
        rank = share * sum(self.counts)
        seen = 0
        for bound, count in zip((*LATENCY_BOUNDS_S, float("inf")), self.counts, strict=True):
            seen += count
            if count and seen >= rank:
                return bound
        return 0.0


_GAUGES = ("num_running", "num_queued", "num_slots")


@dataclass(slots=True)
class EngineStats:
    """Counters of an engine since it started; a copy, safe to keep.

    Attributes:
        num_running: requests that hold a slot now.
        num_queued: requests that wait for one.
        num_slots: requests that can run at once.
        kv_use: share of the KV memory that holds something, what is kept for later prompts included; 0 to 1.
        num_finished: requests answered in full.
        num_failed: requests that ended in an error.
        num_cancelled: requests whose client left.
        num_preemptions: how often a request lost its slot to others, as the KV memory ran out; it goes on later.
        num_prompt_tokens: prompt tokens computed or reused.
        num_cached_tokens: those that were reused.
        num_completion_tokens: tokens made.
        num_guessed_tokens: tokens that were guessed and computed, with the setting ``draft``.
        num_right_guesses: those that were what the model chose.
        tokens_per_s: tokens made a second over the last ten seconds or so.
        ttft: from a request's arrival to its first token.
        inter_token: between two tokens of a request.
        num_loads: how often the model was loaded when it was asked for; 0 for one that was loaded before it was served.
        num_failed_loads: how often that failed.
        num_unloads: how often it was unloaded, idle or to make room.
        load_s: seconds that loading took in all.
    """

    num_running: int = 0
    num_queued: int = 0
    num_slots: int = 0
    kv_use: float = 0.0
    num_finished: int = 0
    num_failed: int = 0
    num_cancelled: int = 0
    num_preemptions: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_completion_tokens: int = 0
    num_guessed_tokens: int = 0
    num_right_guesses: int = 0
    tokens_per_s: float = 0.0
    ttft: Latencies = field(default_factory=Latencies)
    inter_token: Latencies = field(default_factory=Latencies)
    num_loads: int = 0
    num_failed_loads: int = 0
    num_unloads: int = 0
    load_s: float = 0.0

    def after(self, past: EngineStats) -> EngineStats:
        """These, with everything counted that `past` has counted: of an engine that took another one's place."""
        counters = [f.name for f in fields(self) if f.name.startswith("num_") and f.name not in _GAUGES]
        sums = {name: getattr(self, name) + getattr(past, name) for name in (*counters, "load_s")}
        ttft, inter_token = self.ttft.plus(past.ttft), self.inter_token.plus(past.inter_token)
        return replace(self, **sums, ttft=ttft, inter_token=inter_token)

    @staticmethod
    def together(each: Sequence[EngineStats]) -> EngineStats:
        """Those of several engines that share their requests, of which there is at least one."""
        total = each[0]
        for other in each[1:]:
            total = replace(
                total.after(other),
                num_running=total.num_running + other.num_running,
                num_queued=total.num_queued + other.num_queued,
                num_slots=total.num_slots + other.num_slots,
                tokens_per_s=total.tokens_per_s + other.tokens_per_s,
            )
        return replace(total, kv_use=sum(stats.kv_use for stats in each) / len(each))

    def summary(self) -> dict[str, float]:
        """The counters by name; of latencies the median and the 99th percentile, in seconds."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("ttft", "inter_token"):
            latencies: Latencies = values.pop(name)
            values[f"{name}_p50_s"] = latencies.quantile(0.5)
            values[f"{name}_p99_s"] = latencies.quantile(0.99)
        return values
