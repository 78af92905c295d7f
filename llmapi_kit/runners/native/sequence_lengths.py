"""Steps of models whose rotary embedding has other factors for long sequences than for short ones (LongRoPE).

The factors belong to a sequence: short and long ones stand in one step, and each is computed as `generate` computes it
by itself. Where a sequence outgrows the context in training, some families compute all of it anew; so does every slot
that goes on from a prefix which was computed for a sequence of the other kind. Knows slots and positions, nothing of
requests. Engine thread only.

Source: Ding et al. 2024 (LongRoPE); `longrope_frequency_update` and Phi-3's `prepare_inputs_for_generation` in
transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from llmapi_kit.runners.base import StepItem

ANEW_AT_ONCE = 512  # tokens that are computed anew in one step

Compute = Callable[[Sequence[StepItem], Sequence[bool]], torch.Tensor]


@dataclass(slots=True)
class _Held:
    """What a slot holds.

    Attributes:
        tokens: at each position.
        is_long: whether they were computed as those of a long sequence.
    """

    tokens: list[int] = field(default_factory=list)
    is_long: bool = False


class SequenceLengths:
    """Tells short sequences from long ones, slot by slot.

    Args:
        original_length: up to which a sequence is short.
        starts_anew: whether a sequence that outgrows that is computed anew; else what was computed stays.
        num_slots: of the runner.
    """

    def __init__(self, original_length: int, *, starts_anew: bool, num_slots: int) -> None:
        self._original = original_length
        self._starts_anew = starts_anew
        self._held = [_Held() for _ in range(num_slots)]

    def is_long(self, length: int) -> bool:
        """Whether a sequence of so many tokens is a long one."""
        return length > self._original

    def step(self, items: Sequence[StepItem], compute: Compute) -> torch.Tensor:
        """Compute items, see `Runner.step`.

        Args:
            items: of a step.
            compute: does it, given whether each item is of a long sequence.
        """
        ends = [self._short_end(item) for item in items]
        parted = [(item, end) for item, end in zip(items, ends, strict=True) if end < len(item.tokens)]
        if not parted:
            return self._step(items, compute)
        logits = self._step([_part(item, 0, end) for item, end in zip(items, ends, strict=True)], compute).clone()
        more = self._step([_part(item, end, None) for item, end in parted], compute)
        return torch.cat(list(_by_turns(items, ends, logits, more)))

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See `Runner.copy_prefix`; the memory is copied by others."""
        held = self._held[source]
        self._held[target] = _Held(held.tokens[:length], held.is_long)

    def _step(self, items: Sequence[StepItem], compute: Compute) -> torch.Tensor:
        are_long = [self._is_of_long(item) for item in items]
        for item, is_long in zip(items, are_long, strict=True):
            for stale in self._stale(item, is_long):
                compute([stale], [is_long])
            held = self._held[item.slot]
            held.tokens[item.start :] = item.tokens
            held.is_long = is_long
        return compute(items, are_long)

    def _is_of_long(self, item: StepItem) -> bool:
        """Whether an item's sequence is long, with this item; where what was computed stays, whether its prompt is."""
        end = item.start + len(item.tokens)
        if item.num_prompt_tokens and not self._starts_anew:
            return self.is_long(item.num_prompt_tokens)
        return self.is_long(max(end, item.num_prompt_tokens))

    def _stale(self, item: StepItem, is_long: bool) -> Iterator[StepItem]:
        """What was computed of an item's sequence before, in parts, if that was as one of the other kind."""
        held = self._held[item.slot]
        if held.is_long == is_long:
            return
        for start in range(0, item.start, ANEW_AT_ONCE):
            tokens = held.tokens[start : min(start + ANEW_AT_ONCE, item.start)]
            yield StepItem(item.slot, start, tokens, False, adapter=item.adapter)

    def _short_end(self, item: StepItem) -> int:
        """How many tokens of an item come before its sequence gets long in the middle of it, as guesses do."""
        num = len(item.tokens)
        is_answer = item.wants_every and 0 < item.num_prompt_tokens <= item.start
        left = self._original - item.start
        return left if self._starts_anew and is_answer and 0 < left < num else num


def _part(item: StepItem, begin: int, end: int | None) -> StepItem:
    return item._replace(start=item.start + begin, tokens=item.tokens[begin:end])


def _by_turns(
    items: Sequence[StepItem], ends: Sequence[int], logits: torch.Tensor, more: torch.Tensor
) -> Iterator[torch.Tensor]:
    """Logits of items in their order: those of the first tokens, up to `ends`, and of those beyond, if there are."""
    for item, end in zip(items, ends, strict=True):
        num_first = end if item.wants_every else 1
        num_more = len(item.tokens) - end
        if item.wants_logits:
            yield logits[:num_first]
            logits = logits[num_first:]
        yield more[:num_more]
        more = more[num_more:]
