"""The Runner protocol: weights and KV memory; slots and tokens in, logits out.

A runner knows nothing of requests, sampling or text. One batching loop drives every runner, on the engine thread;
only that thread calls it after construction.

A *slot* is a number below `num_slots` that names one sequence's place in KV memory. The caller decides which slot
holds what; the runner only stores keys and values by (slot, position).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

    Logits = torch.Tensor
else:
    Logits = object  # this room is importable without torch


class StepItem(NamedTuple):
    """Consecutive tokens of one slot to compute in a step: a chunk of prefill, or one decoded token.

    One is made for every token, and a named tuple in a third of a dataclass's time.

    Attributes:
        slot: whose KV memory is read and written.
        start: position of the first token; positions before it hold what earlier steps wrote.
        tokens: ids at positions start, start + 1, …; at least one.
        wants_logits: whether the logits after the last of these tokens are needed.
        wants_every: with `wants_logits`: after each of these tokens, to score a prompt.
        wants_mean: whether the last hidden states of these tokens go into the slot's mean, see `Runner.mean_state`.
        adapter: which the tokens go through, see `AdapterRunner`; 0 for none.
        num_prompt_tokens: of the whole prompt that the slot's sequence begins with, whose length some models compute
            with; 0 where that is where these tokens end.
    """

    slot: int
    start: int
    tokens: Sequence[int]
    wants_logits: bool
    wants_every: bool = False
    wants_mean: bool = False
    adapter: int = 0
    num_prompt_tokens: int = 0


class Runner(Protocol):
    """Computes steps for a batch of slots.

    Attributes:
        num_slots: sequences that can be held at once.
        max_length: tokens, prompt and answer together, that a slot can hold.
        vocab_size: width of the logits.
    """

    num_slots: int
    max_length: int
    vocab_size: int

    def start(self) -> None:
        """Called once, on the thread that will call everything else, before the first step."""
        ...

    def step(self, items: Sequence[StepItem]) -> Logits:
        """Compute all items in one forward pass; a slot stands in at most one item.

        Running the same items again writes the same values, so a step that failed may be repeated in parts.

        Returns:
            Logits (num_wanted, vocab_size), a row for each item with `wants_logits`, or one for each of its tokens
            with `wants_every`, in the order of `items`. They belong to the caller until the next step.

        Raises:
            Exception: whatever the model raises; KV memory of other slots is unharmed.
        """
        ...

    def recover(self, error: Exception) -> bool | None:
        """A step raised `error`; make what can be made for the next one to work.

        Returns:
            Whether nothing is left of what slots held. Steps that go on after it raise.
        """
        ...

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot to another."""
        ...

    def free(self, slot: int) -> None:
        """The slot's sequence ended; its memory may be reused."""
        ...

    def mean_state(self, slot: int) -> list[float]:
        """Mean of the last hidden states (hidden_size,) over all tokens computed with `wants_mean`, L2-normalised.

        A step at position 0 begins the slot's mean anew. Repeating a step does not count its tokens twice.
        """
        ...

    def close(self) -> None:
        """Give the memory back. The runner is not used after it."""
        ...


@runtime_checkable
class PagedRunner(Protocol):
    """What a runner has besides whose slots take memory as they grow, in pages, and give it back.

    Called between steps, on the thread of the steps.

    Attributes:
        page_size: positions a page.
        num_pages: that all slots together may hold; at least what one slot of `Runner.max_length` takes.
    """

    page_size: int
    num_pages: int

    def trim(self, slot: int, length: int) -> None:
        """Give back a slot's memory from position `length` on, a multiple of `page_size`; what it held is lost."""
        ...


@runtime_checkable
class AdapterRunner(Protocol):
    """What a runner has besides whose steps may go through adapters, each item through its own or none.

    Called between steps, on the thread of the steps.
    """

    def add_adapter(self, adapter: int, weights: Any) -> None:
        """Take an adapter in.

        Args:
            adapter: what items name it by; above 0.
            weights: of a kind that the runner and whoever reads files agree on.

        Raises:
            ModelError: it can't be used with this model; nothing has changed.
        """
        ...

    def remove_adapter(self, adapter: int) -> None:
        """Let go of an adapter that no item names any more."""
        ...
