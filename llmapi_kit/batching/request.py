"""One request as the batching loop sees it: where it stands, and what it still needs.

Knows nothing of HTTP or of other requests. Made by an engine, then touched by the engine thread only (but for
`is_cancelled`, which any thread may set).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from llmapi_kit.sampling.detokenize import Detokenizer
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.sampling.sampler import SamplerRow
from llmapi_kit.sampling.stops import StopMatcher


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
        cache_salt: only requests with the same one share cached prefixes.
        channel: opaque to the loop; whoever made the request finds its consumer by it.
        slot: where its KV memory is; None while it waits.
        num_computed: tokens of prompt and answer whose keys and values are in the slot.
        num_cached: prompt tokens that were in the slot already.
        output_ids: tokens made so far.
        is_cancelled: nobody listens any more; the slot is freed before the next step.
        is_done: its terminal event was given out; there is never another one.
        enqueued_at: `time.monotonic()` when it was made.
        last_token_at: `time.monotonic()` of its latest token; 0 before the first.
    """

    id: str
    prompt_ids: Sequence[int]
    params: SamplingParams
    max_new_tokens: int
    detokenizer: Detokenizer
    index: int = 0
    cache_salt: str = ""
    channel: object = None
    slot: int | None = None
    num_computed: int = 0
    num_cached: int = 0
    output_ids: list[int] = field(default_factory=list)
    is_cancelled: bool = False
    is_done: bool = False
    enqueued_at: float = field(default_factory=time.monotonic)
    last_token_at: float = 0.0
    stops: StopMatcher = field(init=False)
    row: SamplerRow = field(init=False)

    def __post_init__(self) -> None:
        self.stops = StopMatcher(self.params.stop)
        self.row = SamplerRow(self.params, self.prompt_ids, self.index)

    @property
    def num_uncomputed_prompt(self) -> int:
        """Prompt tokens that still need a forward pass; 0 once it decodes."""
        return max(0, len(self.prompt_ids) - self.num_computed)

    @property
    def is_at_limit(self) -> bool:
        """Whether no further token may be made."""
        return len(self.output_ids) >= self.max_new_tokens
