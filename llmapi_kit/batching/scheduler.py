"""Who gets a slot, and what each step computes.

First come, first served. Every running request that decodes gets its one token each step; what is left of the
step's token budget goes to prefill, oldest first, in chunks. Beside running streams the budget is what the model
prefills in `max_stall_s`, as measured, so that a prompt, however long, holds no stream up for longer. A request whose
prompt another one is just computing waits for it and copies the result.
Knows nothing of models, sampling or events. Engine thread only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from llmapi_kit.batching.prefix_cache import MIN_SHARED, PrefixCache, common_prefix
from llmapi_kit.batching.request import Request
from llmapi_kit.runners.base import StepItem

# Smaller chunks would take longer in all than they spare the streams.
MIN_CHUNK = 16


class Scheduler:
    """Slots and the queue for them.

    Args:
        num_slots: requests that can run at once.
        step_tokens: most tokens computed in a step; decodes are never held back by it.
        max_stall_s: how long a prefill may hold up running streams in one step, about.
        has_prefix_cache: whether slots keep what they computed.

    Attributes:
        waiting: requests without a slot, oldest first.
        running: requests with a slot, oldest first.
        cache: what the slots hold.
    """

    def __init__(
        self, num_slots: int, step_tokens: int, *, max_stall_s: float = 0.2, has_prefix_cache: bool = True
    ) -> None:
        self.step_tokens = step_tokens
        self._max_stall_s = max_stall_s
        self._tokens_per_s: float | None = None  # of prefill, lately
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.cache = PrefixCache(num_slots, is_enabled=has_prefix_cache)
        self._has_prefix_cache = has_prefix_cache
        self._num_slots = num_slots

    def add(self, request: Request) -> None:
        """Put a request at the end of the queue."""
        self.waiting.append(request)

    def remove(self, request: Request) -> int | None:
        """Take a request out wherever it stands; returns the slot it held, which is free now."""
        if request.slot is None:
            self.waiting.remove(request)
            return None
        self.running.remove(request)
        slot, request.slot = request.slot, None
        self.cache.release(slot)
        return slot

    def admit(self) -> list[tuple[int, int, int]]:
        """Give slots to waiting requests.

        Returns:
            (source, target, length) of each prefix to copy before the next step.
        """
        copies: list[tuple[int, int, int]] = []
        held: list[Request] = []
        while self.waiting and len(self.running) < self._num_slots:
            request = self.waiting.popleft()
            if self._is_worth_waiting(request):
                held.append(request)
                continue
            placement = self.cache.place(request.prompt_ids, request.cache_salt)
            if placement is None:
                held.append(request)
                break
            request.slot = placement.slot
            request.num_computed = request.num_cached = placement.num_cached
            self.running.append(request)
            if placement.copy_from is not None:
                copies.append((placement.copy_from, placement.slot, placement.num_cached))
        self.waiting.extendleft(reversed(held))
        return copies

    def schedule(self) -> list[tuple[Request, StepItem]]:
        """What the next step computes; empty when there is nothing to do."""
        plan = [
            (request, _item(request, request.output_ids[-1:], wants_logits=True))
            for request in self.running
            if not request.num_uncomputed_prompt
        ]
        budget = self._prefill_budget(len(plan)) if plan else self.step_tokens
        for request in self.running:
            remaining = request.num_uncomputed_prompt
            if not remaining or (budget <= 0 and plan):
                continue
            size = min(remaining, max(budget, 1))
            chunk = request.prompt_ids[request.num_computed : request.num_computed + size]
            plan.append((request, _item(request, chunk, wants_logits=size == remaining)))
            budget -= size
        return plan

    def took(self, num_tokens: int, seconds: float) -> None:
        """A step of so many tokens took so long. Short steps tell nothing of prefill."""
        if num_tokens >= MIN_CHUNK:
            rate = num_tokens / max(seconds, 1e-6)
            self._tokens_per_s = rate if self._tokens_per_s is None else 0.5 * (self._tokens_per_s + rate)

    def _prefill_budget(self, num_decodes: int) -> int:
        """Prompt tokens that a step may compute beside running streams."""
        in_time = int((self._tokens_per_s or 0) * self._max_stall_s)
        return min(self.step_tokens - num_decodes, max(MIN_CHUNK, in_time))

    def computed(self, request: Request, item: StepItem) -> None:
        """An item of the plan was computed."""
        request.num_computed = item.start + len(item.tokens)
        self.cache.extend(item.slot, item.tokens)

    def _is_worth_waiting(self, request: Request) -> bool:
        """Whether a running request is computing a prefix that this one shares, and is not there yet."""
        if not self._has_prefix_cache:
            return False
        for other in self.running:
            if other.num_uncomputed_prompt and other.cache_salt == request.cache_salt:
                shared = common_prefix(other.prompt_ids, request.prompt_ids[:-1])
                if shared - other.num_computed >= MIN_SHARED:
                    return True
        return False


def _item(request: Request, tokens: Sequence[int], *, wants_logits: bool) -> StepItem:
    if request.slot is None:
        raise RuntimeError(f"request {request.id} runs without a slot")
    return StepItem(request.slot, request.num_computed, tokens, wants_logits)
