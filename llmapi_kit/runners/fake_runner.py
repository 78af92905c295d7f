"""A deterministic runner without a model, for tests of whatever drives one.

After tokens t0 … tn of a slot, the most likely next token is a fixed function of all of them and of its adapter, so a
wrong slot, a lost position or a stale cache shows as another token. It needs torch for tensors only. Tests can make it
slow, make it wait, or make it fail on a given token.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch

from llmapi_kit.runners.base import StepItem


class FakeRunner:
    """See the module. It refuses what a real runner could not notice: a gap in a slot's positions.

    Args:
        num_slots: see `Runner`.
        max_length: see `Runner`.
        vocab_size: see `Runner`.
        eos_id: never predicted unless `answer_length` tokens followed the prompt.
        answer_length: the end-of-sequence token is the most likely one after this many tokens past the first
            step's; None for never.
        poison: a step that computes this token raises.
        page_size: see `PagedRunner`.
        num_pages: see `PagedRunner`; None for what all slots can fill.
        before_step: called with the items before each step, on the engine thread; may block or raise.
    """

    def __init__(
        self,
        *,
        num_slots: int = 4,
        max_length: int = 256,
        vocab_size: int = 64,
        eos_id: int = 0,
        answer_length: int | None = None,
        poison: int | None = None,
        page_size: int = 8,
        num_pages: int | None = None,
        before_step: Callable[[Sequence[StepItem]], None] | None = None,
    ) -> None:
        self.num_slots = num_slots
        self.max_length = max_length
        self.vocab_size = vocab_size
        self.eos_id = eos_id
        self.answer_length = answer_length
        self.poison = poison
        self.page_size = page_size
        self.num_pages = num_slots * -(-max_length // page_size) if num_pages is None else num_pages
        self.before_step = before_step
        self.steps: list[list[StepItem]] = []
        self.freed: list[int] = []
        self.recovered: list[Exception] = []
        self.is_closed = False
        self.stepped = threading.Event()
        self.adapters: dict[int, object] = {}
        self._adapter_of: dict[int, int] = {}  # slot to the adapter of its latest tokens
        self._tokens: dict[int, list[int]] = {}
        self._prompt_length: dict[int, int] = {}
        self._held: dict[int, int] = {}  # slot to pages

    def start(self) -> None:
        """See `Runner.start`."""

    def step(self, items: Sequence[StepItem]) -> torch.Tensor:
        """See `Runner.step`."""
        if self.before_step is not None:
            self.before_step(items)
        for item in items:
            if self.poison is not None and self.poison in item.tokens:
                raise RuntimeError(f"poison token {self.poison}")
        rows = []
        for item in items:
            held = self._tokens.setdefault(item.slot, [])
            if item.start > len(held):
                raise AssertionError(f"slot {item.slot}: position {item.start} follows {len(held)} tokens")
            if item.adapter and item.adapter not in self.adapters:
                raise AssertionError(f"slot {item.slot}: there is no adapter {item.adapter}")
            if item.start and self._adapter_of.get(item.slot, 0) != item.adapter:
                raise AssertionError(f"slot {item.slot} goes on with another adapter than it began with")
            self._adapter_of[item.slot] = item.adapter
            del held[item.start :]
            if item.start == 0 or len(item.tokens) > 1:
                self._prompt_length[item.slot] = item.start + len(item.tokens)
            for token in item.tokens:
                held.append(token)
                self._hold(item.slot)
                if item.wants_every or (item.wants_logits and len(held) == item.start + len(item.tokens)):
                    rows.append(self._logits(item.slot))
        self.steps.append(list(items))
        self.stepped.set()
        return torch.stack(rows) if rows else torch.empty(0, self.vocab_size)

    def add_adapter(self, adapter: int, weights: object) -> None:
        """See `AdapterRunner.add_adapter`. Weights that are an exception are raised."""
        if isinstance(weights, Exception):
            raise weights
        self.adapters[adapter] = weights

    def remove_adapter(self, adapter: int) -> None:
        """See `AdapterRunner.remove_adapter`."""
        del self.adapters[adapter]

    def recover(self, error: Exception) -> None:
        """See `Runner.recover`."""
        self.recovered.append(error)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See `Runner.copy_prefix`."""
        self._tokens[target] = self._tokens[source][:length]
        self._adapter_of[target] = self._adapter_of.get(source, 0)
        self._hold(target)

    def trim(self, slot: int, length: int) -> None:
        """See `PagedRunner.trim`."""
        if length % self.page_size:
            raise AssertionError(f"slot {slot} is cut to {length}, within a page of {self.page_size}")
        del self._tokens.setdefault(slot, [])[length:]
        self._held[slot] = min(self._held.get(slot, 0), length // self.page_size)

    def _hold(self, slot: int) -> None:
        num_pages = -(-len(self._tokens[slot]) // self.page_size)
        self._held[slot] = max(self._held.get(slot, 0), num_pages)
        if sum(self._held.values()) > self.num_pages:
            raise AssertionError(f"{self._held} pages are more than {self.num_pages}")

    def free(self, slot: int) -> None:
        """See `Runner.free`."""
        self.freed.append(slot)

    def mean_state(self, slot: int) -> list[float]:
        """See `Runner.mean_state`: a unit vector along the sum of the ids."""
        return [float(sum(self._tokens[slot]) % 4 == axis) for axis in range(4)]

    def close(self) -> None:
        """See `Runner.close`."""
        self.is_closed = True

    def expected(self, prompt: Sequence[int], num_tokens: int, adapter: int = 0) -> list[int]:
        """The greedy continuation, computed directly."""
        tokens = list(prompt)
        for _ in range(num_tokens):
            tokens.append(self._next(tokens, adapter))
        return tokens[len(prompt) :]

    def _next(self, tokens: Sequence[int], adapter: int = 0) -> int:
        mixed = 7 + adapter
        for token in tokens:
            mixed = (mixed * 31 + token + 1) % 1_000_003
        return 1 + mixed % (self.vocab_size - 1)

    def _logits(self, slot: int) -> torch.Tensor:
        tokens = self._tokens[slot]
        best = self._next(tokens, self._adapter_of.get(slot, 0))
        if (
            self.answer_length is not None
            and len(tokens) - self._prompt_length.get(slot, len(tokens)) >= self.answer_length
        ):
            best = self.eos_id
        logits = torch.arange(self.vocab_size, dtype=torch.float32) / -self.vocab_size
        logits[best] = 4.0
        return logits
