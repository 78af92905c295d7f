"""One request as the batching loop sees it: where it stands, and what it still needs.

Knows nothing of HTTP or of other requests. Made by an engine, then touched by the engine thread only (but for
`is_cancelled`, which any thread may set).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llmapi_kit.batching.beam_search import BeamSearch
from llmapi_kit.batching.proposer import Proposer
from llmapi_kit.sampling.detokenize import Detokenizer
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.sampling.sampler import Sampled, SamplerRow
from llmapi_kit.sampling.stop_strings import StopMatcher

if TYPE_CHECKING:
    from llmapi_kit.sampling.matcher import Matcher


@dataclass(slots=True, eq=False)
class Request:
    """A prompt on its way to an answer.

    Attributes:
        id: for logs.
        prompt_ids: the prompt; at least one token.
        params: how to sample.
        max_new_tokens: limit that holds whatever `params` says: the room left in the context.
        detokenizer: fresh, for this answer.
        index: which of several answers to the same prompt it makes.
        key_id: whose it is: slots are shared fairly between keys.
        cache_salt: only requests with the same one share cached prefixes.
        channel: opaque to the loop; whoever made the request finds its consumer by it.
        context_ids: the end of the prompt where the answer goes on with its text; empty where a new text begins.
        echo: text of the prompt, to be given out before the answer; None for no echo.
        scores_prompt: with an echo, whether the prompt's tokens get log-probabilities; it is computed anew for it.
        keeps: what has to live as long as the request, such as the pictures in its prompt.
        whole: (start, end) of parts of the prompt that have to be computed in one step, in order.
        num_image_tokens: how many tokens of the prompt are pictures'.
        adapter: which the runner computes it with; 0 for none. `cache_salt` tells those of different ones apart.
        proposer: guesses what the answer goes on with; None for no guesses.
        is_embedding: the prompt is embedded, nothing is generated.
        matcher: what the answer must match; this answer's own.
        beams: the beam search it leads or belongs to.
        detokenizers: with beams, one for each answer in place of `detokenizer`.
        number: it was the how-manieth to come.
        slot: where its KV memory is; None while it waits.
        num_computed: tokens of prompt and answer whose keys and values are in the slot.
        num_cached: prompt tokens that were in the slot already.
        num_read: prompt tokens that were computed or found, once they were: a preemption takes none away.
        num_preemptions: how often it lost its slot to others, as memory ran out.
        output_ids: tokens made so far.
        prompt_scores: position to the log-probability of the prompt's token there.
        is_parked: it holds a slot but computes nothing: a beam that waits for a fork.
        is_cancelled: nobody listens any more; the slot is freed before the next step.
        is_done: its terminal event was given out; there is never another one.
        enqueued_at: `time.monotonic()` when it was made.
        last_token_at: `time.monotonic()` of its latest token; 0 before the first.
        has_no_answer: whether it ends with its prompt.
        prefill_ids: what has to be in its slot before it makes its next token: the prompt, and after a preemption what
            it had made, but for the latest token.
    """

    id: str
    prompt_ids: Sequence[int]
    params: SamplingParams
    max_new_tokens: int
    detokenizer: Detokenizer
    index: int = 0
    key_id: str = ""
    cache_salt: str = ""
    channel: object = None
    context_ids: Sequence[int] = ()
    echo: str | None = None
    scores_prompt: bool = False
    keeps: object = None
    whole: Sequence[tuple[int, int]] = ()
    num_image_tokens: int = 0
    adapter: int = 0
    proposer: Proposer | None = None
    is_embedding: bool = False
    matcher: Matcher | None = None
    beams: BeamSearch[Request] | None = None
    detokenizers: Sequence[Detokenizer] = ()
    number: int = 0
    slot: int | None = None
    num_computed: int = 0
    num_cached: int = 0
    num_read: int = 0
    num_preemptions: int = 0
    output_ids: list[int] = field(default_factory=list)
    prompt_scores: dict[int, Sampled] = field(default_factory=dict)
    is_parked: bool = False
    is_cancelled: bool = False
    is_done: bool = False
    enqueued_at: float = field(default_factory=time.monotonic)
    last_token_at: float = 0.0
    has_no_answer: bool = field(init=False)
    prefill_ids: Sequence[int] = field(init=False)
    stops: StopMatcher = field(init=False)
    row: SamplerRow = field(init=False)

    def __post_init__(self) -> None:
        self.prefill_ids = self.prompt_ids
        self.has_no_answer = self.is_embedding or self.max_new_tokens == 0
        self.stops = StopMatcher(self.params.stop, is_included=self.params.include_stop_str_in_output)
        self.row = SamplerRow(self.params, self.prompt_ids, self.index)
        if self.beams is not None and not self.beams.members:
            self.beams.begin(self)

    def sibling(self) -> Request:
        """Another request of the same beam search, which waits in its slot."""
        return replace(self, output_ids=[], is_parked=True)

    def preempt(self) -> None:
        """Its slot is another one's now; when it gets one again, it goes on as if it had not lost it."""
        self.prefill_ids = [*self.prompt_ids, *self.output_ids[:-1]]
        self.slot, self.num_computed = None, 0
        self.num_preemptions += 1

    def read(self, end: int) -> int:
        """Its prompt is computed up to `end`; returns how many of these tokens never were before."""
        before, self.num_read = self.num_read, max(self.num_read, min(end, len(self.prompt_ids)))
        return self.num_read - before

    @property
    def num_tokens(self) -> int:
        """Of prompt and answer so far."""
        return len(self.prompt_ids) + len(self.output_ids)

    def tokens(self, start: int, end: int) -> list[int]:
        """Those of prompt and answer at positions `start` to `end`, as far as they are known."""
        num = len(self.prompt_ids)
        return [*self.prompt_ids[start:end], *self.output_ids[max(0, start - num) : max(0, end - num)]]

    @property
    def num_uncomputed_prompt(self) -> int:
        """Tokens to prefill that still need a forward pass; 0 once it decodes."""
        return max(0, len(self.prefill_ids) - self.num_computed)

    @property
    def is_scoring(self) -> bool:
        """Whether log-probabilities of its prompt's tokens are still wanted."""
        return self.scores_prompt and not self.output_ids

    @property
    def held_slot(self) -> int:
        """Its slot; raises where it has none, which a planned request always has."""
        if self.slot is None:
            raise RuntimeError(f"request {self.id} runs without a slot")
        return self.slot

    def chunk_size(self, size: int) -> int:
        """How many more tokens of the prompt to compute where `size` would be: parts that have to be are left whole."""
        end = self.num_computed + size
        for first, last in self.whole:
            if first < end < last:
                return (first if first > self.num_computed else last) - self.num_computed
        return size

    @property
    def leader(self) -> Request:
        """The request that was submitted: itself, unless it is one of several beams."""
        return self.beams.members[0] if self.beams is not None else self

    @property
    def num_slots(self) -> int:
        """Slots it needs at once."""
        return self.beams.num_beams if self.beams is not None else 1

    @property
    def last_index(self) -> int:
        """Index of the last answer it gives."""
        return self.beams.num_answers - 1 if self.beams is not None else self.index

    @property
    def can_reuse_prefix(self) -> bool:
        """Whether computed parts of the prompt may be taken from the cache: not where every token's result counts."""
        return not (self.is_scoring or self.is_embedding)

    @property
    def is_at_limit(self) -> bool:
        """Whether no further token may be made."""
        return len(self.output_ids) >= self.max_new_tokens
