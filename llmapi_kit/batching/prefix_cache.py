"""Which slot a request gets, and how much of its prompt is there already.

A slot keeps what it computed after its request has ended, until another request needs it. A new request takes over
the slot whose tokens it continues, or gets a copy of the part it shares with another one, running or ended. Pure
bookkeeping: knows nothing of models; the caller copies. Engine thread only.

Source: reuse of whole slots is how llama.cpp's server does it (`cache_prompt`); paged prefix caches (vLLM, SGLang)
share at a finer grain and need paged attention for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

# A copy, or waiting for another request's prefill, pays only for a prefix of some length.
MIN_SHARED = 32


@dataclass(slots=True)
class _Slot:
    """Attributes: tokens whose keys and values are valid; whose they are; when last used."""

    tokens: list[int] = field(default_factory=list)
    salt: str = ""
    used_at: int = 0
    is_busy: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a request goes.

    Attributes:
        slot: its slot.
        num_cached: tokens of its prompt that are there, or will be after the copy.
        copy_from: slot to copy the first `num_cached` positions from; None for no copy.
    """

    slot: int
    num_cached: int
    copy_from: int | None = None


class PrefixCache:
    """All slots and what they hold.

    Args:
        num_slots: how many there are.
        is_enabled: False forgets a slot's content when its request ends.
        can_copy: whether there is memory for a copy of so many tokens; without it, an ended request's slot that holds
            them is taken over.

    Attributes:
        num_hit_tokens: prompt tokens that were found.
        num_asked_tokens: prompt tokens that were looked for.
    """

    def __init__(
        self, num_slots: int, *, is_enabled: bool = True, can_copy: Callable[[int], bool] = lambda length: True
    ) -> None:
        self._slots = [_Slot() for _ in range(num_slots)]
        self._can_copy = can_copy
        self._is_enabled = is_enabled
        self._clock = 0
        self.num_hit_tokens = 0
        self.num_asked_tokens = 0

    @property
    def num_tokens(self) -> int:
        """Tokens held in all slots."""
        return sum(len(slot.tokens) for slot in self._slots)

    def place(
        self, prompt: Sequence[int], salt: str, *, is_reusing: bool = True, is_counted: bool = True
    ) -> Placement | None:
        """Choose a slot for a prompt and mark it busy; None when all are.

        At least the last token of the prompt is left to compute, as its logits are needed; all of them unless
        `is_reusing`. What is found counts in the attributes if `is_counted`.
        """
        free = [i for i, slot in enumerate(self._slots) if not slot.is_busy]
        if not free:
            return None
        reusable = prompt[:-1] if self._is_enabled and is_reusing else ()
        placement = self._choose(free, reusable, salt)
        self._take(placement, prompt, salt)
        if is_counted:
            self.num_hit_tokens += placement.num_cached
            self.num_asked_tokens += len(prompt)
        return placement

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        """Tokens whose keys and values were computed, after those that are there."""
        self._slots[slot].tokens.extend(tokens)

    def copy(self, source: int, target: int) -> None:
        """The target slot was made to hold what the source holds."""
        self._slots[target].tokens = list(self._slots[source].tokens)

    def cut(self, slot: int, length: int) -> None:
        """The slot holds no more than so many tokens."""
        del self._slots[slot].tokens[length:]

    def lengths_needed(self) -> dict[int, int]:
        """How many tokens each slot can't do without: 0 after its request. The longest unused ones come first."""
        order = sorted(range(len(self._slots)), key=lambda i: (not self._slots[i].is_busy, self._slots[i].used_at))
        return {i: len(self._slots[i].tokens) if self._slots[i].is_busy else 0 for i in order}

    def forget(self) -> None:
        """The slots hold nothing any more."""
        for slot in self._slots:
            slot.tokens = []

    def release(self, slot: int) -> None:
        """The slot's request has ended."""
        self._clock += 1
        held = self._slots[slot]
        held.is_busy, held.used_at = False, self._clock
        if not self._is_enabled:
            held.tokens = []

    def _choose(self, free: list[int], prompt: Sequence[int], salt: str) -> Placement:
        best, length = self._longest_shared(prompt, salt)
        # A conversation goes on in its own slot. What is mostly something else is left for its owner.
        if length and best in free and 2 * length >= len(self._slots[best].tokens):
            return Placement(best, length)
        others = [i for i in free if i != best or not length] or free
        target = self._least_useful(others)
        if target == best or (length and best in free and not self._can_copy(length)):
            return Placement(best, length)
        if length < MIN_SHARED:
            slot = self._slots[target]
            return Placement(target, common_prefix(slot.tokens, prompt) if slot.salt == salt else 0)
        return Placement(target, length, copy_from=best)

    def _least_useful(self, free: list[int]) -> int:
        """An empty slot, or one of those that were not used for long.

        Of either, one beside a busy slot rather than another: runners compute neighbouring slots together.
        """
        old = sorted(free, key=lambda i: (bool(self._slots[i].tokens), self._slots[i].used_at, i))
        num_empty = sum(not self._slots[i].tokens for i in old)
        candidates = old[: num_empty or (len(old) + 1) // 2]
        return max(candidates, key=self._num_busy_neighbours)  # the first of those

    def _num_busy_neighbours(self, slot: int) -> int:
        return sum(each.is_busy for each in self._slots[max(0, slot - 1) : slot + 2])

    def _longest_shared(self, prompt: Sequence[int], salt: str) -> tuple[int, int]:
        """The slot that shares most of a prompt, a free one rather than a busy one, and how much.

        Where both go on, less than `MIN_SHARED` counts for nothing: prompts of a template all begin alike.
        """
        best, length = 0, 0
        for i, slot in enumerate(self._slots):
            size = min(MIN_SHARED, len(slot.tokens), len(prompt))
            if slot.salt != salt or slot.tokens[:size] != prompt[:size]:
                continue
            shared = common_prefix(slot.tokens, prompt)
            if shared > length or (shared == length and self._slots[best].is_busy and not slot.is_busy):
                best, length = i, shared
        return best, length

    def _take(self, placement: Placement, prompt: Sequence[int], salt: str) -> None:
        slot = self._slots[placement.slot]
        slot.tokens = list(prompt[: placement.num_cached])
        slot.salt, slot.is_busy = salt, True


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences share from the start; compares slices, not tokens."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
