"""Which slot holds how many pages of KV memory, where there are fewer than all slots could fill.

A slot takes pages as it grows. When none are left, those of ended requests are given back, which are kept for later
prompts only: the longest unused first, and each from its end, so that what prompts have in common stays longest.
Counts pages and nothing else; the runner owns the memory. Engine thread only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from llmapi_kit.batching.prefix_cache import PrefixCache
from llmapi_kit.runners.base import PagedRunner, Runner


class Copy(NamedTuple):
    """The first positions of a slot are to be copied to another one."""

    source: int
    target: int
    length: int

    def apply(self, runner: Runner) -> None:
        """Have it done."""
        runner.copy_prefix(*self)


class Free(NamedTuple):
    """A slot's request has left it."""

    slot: int

    def apply(self, runner: Runner) -> None:
        """Have it done."""
        runner.free(self.slot)


class Trim(NamedTuple):
    """A slot's memory from some position on is to be given back."""

    slot: int
    length: int

    def apply(self, runner: Runner) -> None:
        """Have it done."""
        if isinstance(runner, PagedRunner):
            runner.trim(*self)


Change = Copy | Free | Trim


class PagePool:
    """Pages of all slots.

    Args:
        cache: what the slots hold.
        num_slots: how many there are.
        page_size: positions a page.
        num_pages: that slots may hold together.
    """

    def __init__(self, cache: PrefixCache, num_slots: int, page_size: int, num_pages: int) -> None:
        self._cache = cache
        self._page_size = page_size
        self._held = [0] * num_slots
        self._reserved = [0] * num_slots
        self.num_pages = num_pages
        self.num_free = num_pages

    def count(self, length: int) -> int:
        """Pages that so many positions take."""
        return -(-length // self._page_size)

    def has_free(self, length: int) -> bool:
        """Whether so many positions more can be held with nothing given back."""
        return self.count(length) <= self.num_free

    def grow(self, lengths: Mapping[int, int]) -> list[Trim] | None:
        """Take pages for slots that are about to have so many positions.

        Returns:
            What is to be given back first; None where there are too few pages, and then nothing has changed.
        """
        wanted = {slot: self.count(length) for slot, length in lengths.items()}
        missing = sum(max(0, num - self._held[slot]) for slot, num in wanted.items()) - self.num_free
        trims: list[Trim] = []
        if missing > 0:
            spare = self._spare(wanted)
            if missing > sum(spare.values()):
                return None
            for slot, num in spare.items():
                if min(num, missing) > 0:
                    trims.append(self._trim(slot, min(num, missing)))
                    missing -= min(num, missing)
        for slot, num in wanted.items():
            self.num_free -= max(0, num - self._held[slot])
            self._held[slot] = max(self._held[slot], num)
        return trims

    def reserve(self, lengths: Mapping[int, int]) -> list[Trim] | None:
        """As `grow`, and these pages are the slots' own until their `release`."""
        trims = self.grow(lengths)
        if trims is not None:
            for slot, length in lengths.items():
                self._reserved[slot] = self.count(length)
        return trims

    def release(self, slot: int) -> None:
        """The slot's request has left it."""
        self._reserved[slot] = 0

    def _spare(self, wanted: Mapping[int, int]) -> dict[int, int]:
        """Pages that slots could do without, in the order in which they are given back.

        Of running requests: what an earlier one left behind, or a guess that was wrong.
        """
        spare = {}
        for slot, length in self._cache.lengths_needed().items():
            needed = max(self.count(length), wanted.get(slot, 0), self._reserved[slot])
            spare[slot] = max(0, self._held[slot] - needed)
        return spare

    def _trim(self, slot: int, num: int) -> Trim:
        self._held[slot] -= num
        self.num_free += num
        length = self._held[slot] * self._page_size
        self._cache.cut(slot, length)
        return Trim(slot, length)
