"""Who gets a slot, and what each step computes.

Slots are shared fairly between the keys that requests came with, and within a key it is first come, first served; see
`FairShare`. Every running request that decodes gets its one token each step; what is left of the step's token budget
goes to prefill, oldest first but in turns between keys, in chunks. Beside running streams the budget is what the model
prefills in `max_stall_s`, as measured, and at most a quarter more to read a prompt to its end, so that a prompt,
however long, holds no stream up for longer. A request whose prompt another one is just computing waits for it and
copies the result.

Where there is less memory than all slots could fill, a request is let in when its prompt has room. When running ones
have grown into all there is, the one that came last loses its slot and waits at the head of the queue, to compute
again what is lost by then; the one that came first never does but for a beam search, so each ends some time.
Knows nothing of models, sampling or events. Engine thread only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from llmapi_kit.batching.fair_share import FairShare
from llmapi_kit.batching.page_pool import Change, Copy, Free, PagePool
from llmapi_kit.batching.prefix_cache import MIN_SHARED, PrefixCache, common_prefix
from llmapi_kit.batching.request import Request
from llmapi_kit.runners.base import StepItem

# Smaller chunks would take longer in all than they spare the streams.
MIN_CHUNK = 16
# A step computes a quarter more to read a prompt to its end, and no less of one: small pieces take longer than large.
SPARE = 4
# Prompt tokens in a step while several prompts wait: the first of them need not wait for the last. Not where fewer are
# computed beside running streams: then those that are left take turns beside the first ones' answers, and end later.
SHARED_STEP = 256
# Logits of every token of a chunk are as wide as the vocabulary.
MAX_SCORED_CHUNK = 64
# Guessed tokens in a step, of all its requests: each is computed like a token of a prompt.
MAX_GUESSED_IN_STEP = 32


class Scheduler:
    """Slots and the queue for them.

    Args:
        num_slots: requests that can run at once.
        step_tokens: most tokens computed in a step; decodes are never held back by it.
        max_stall_s: how long a prefill may hold up running streams in one step, about.
        has_prefix_cache: whether slots keep what they computed.
        page_size: positions that slots take at a time, if `num_pages` says how many they may take.
        num_pages: pages that slots may hold together; 0 for as many as they can fill.

    Attributes:
        waiting: requests without a slot, oldest first.
        running: requests with a slot, oldest first.
        cache: what the slots hold.
        num_preemptions: how often a request lost its slot.
    """

    def __init__(
        self,
        num_slots: int,
        step_tokens: int,
        *,
        max_stall_s: float = 0.2,
        has_prefix_cache: bool = True,
        page_size: int = 1,
        num_pages: int = 0,
    ) -> None:
        self.step_tokens = step_tokens
        self._max_stall_s = max_stall_s
        self._tokens_per_s: float | None = None  # of prefill, lately
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.cache = PrefixCache(num_slots, is_enabled=has_prefix_cache, can_copy=self._can_copy)
        self._pages = PagePool(self.cache, num_slots, page_size, num_pages) if num_pages else None
        self._changes: list[Change] = []
        self._num_added = 0
        self.num_preemptions = 0
        self._has_prefix_cache = has_prefix_cache
        self._num_slots = num_slots
        self._share = FairShare(num_slots)

    def add(self, request: Request) -> None:
        """Put a request at the end of the queue."""
        self._num_added += 1
        request.number = self._num_added
        self.waiting.append(request)
        self._share.came(request.key_id)

    def has_room(self, num_sequences: int, length: int) -> bool:
        """Whether so many sequences of this length can be held at once."""
        is_held = self._pages is None or num_sequences * self._pages.count(length) <= self._pages.num_pages
        return is_held and num_sequences <= self._num_slots

    def remove(self, request: Request) -> int | None:
        """Take a request out wherever it stands; returns the slot it held, which is free now."""
        if request.slot is None:
            self.waiting.remove(request)
            return None
        self.running.remove(request)
        slot, request.slot = request.slot, None
        self.cache.release(slot)
        if self._pages is not None:
            self._pages.release(slot)
        return slot

    def admit(self) -> None:
        """Give slots to waiting requests."""
        passed_over: set[Request] = set()
        while self.waiting and len(self.running) < self._num_slots:
            request = self._share.next(self.waiting, self.running, passed_over)
            if request is None:
                break
            if self._is_worth_waiting(request):
                passed_over.add(request)
                continue
            if len(self.running) + request.num_slots > self._num_slots or not self._has_memory(request):
                break
            self.waiting.remove(request)
            self._share.took_slot(request)
            self._place(request)

    def take_changes(self) -> list[Change]:
        """What is to be done with slots before the next step, in this order; once."""
        changes, self._changes = self._changes, []
        return changes

    def _place(self, request: Request) -> None:
        """Give a request its slots."""
        is_new = not request.num_preemptions
        placement = self.cache.place(
            request.prefill_ids, request.cache_salt, is_reusing=request.can_reuse_prefix, is_counted=is_new
        )
        if placement is None:
            raise RuntimeError(f"no slot for request {request.id}, though one is free")
        request.slot = placement.slot
        request.num_computed = placement.num_cached
        if is_new:
            request.num_cached = request.num_read = placement.num_cached
        self.running.append(request)
        for member in request.beams.members[1:] if request.beams else ():
            empty = self.cache.place((), request.cache_salt)
            if empty is None:
                raise RuntimeError(f"no slot for a beam of request {request.id}, though one is free")
            member.slot = empty.slot
            self.running.append(member)
        if request.beams is not None:
            self._reserve(request.beams.members)
        if placement.copy_from is not None:
            self._grow(dict.fromkeys((placement.copy_from, placement.slot), placement.num_cached))
            self._changes.append(Copy(placement.copy_from, placement.slot, placement.num_cached))

    def fork(self, source: Request, target: Request) -> tuple[int, int, int]:
        """A beam goes on from what another one computed; returns the copy to make before the next step."""
        if source.slot is None or target.slot is None:
            raise RuntimeError(f"a beam of request {source.id} runs without a slot")
        self.cache.copy(source.slot, target.slot)
        return source.slot, target.slot, source.num_computed

    def schedule(self) -> list[tuple[Request, StepItem]]:
        """What the next step computes; empty when there is nothing to do."""
        plan = self._plan()
        if self._pages is None:
            return plan
        lengths = _lengths(plan)
        while not self._grow(lengths):
            if any(is_guess(*each) for each in plan):
                plan = [(request, _without_guesses(request, item)) for request, item in plan]
            else:
                self._preempt(max(self._preemptible(), key=lambda request: request.number))
                plan = [each for each in plan if each[0].slot is not None]
            lengths = _lengths(plan)
        return plan

    def _plan(self) -> list[tuple[Request, StepItem]]:
        plan: list[tuple[Request, StepItem]] = []
        prefilling: list[Request] = []
        for request in self.running:
            if request.is_parked:
                continue
            if request.num_computed < len(request.prefill_ids):
                prefilling.append(request)
            else:
                plan.append((request, self._decode(request)))
        plan.extend(self._prefill(prefilling, len(plan)))
        return plan

    def _prefill(self, prefilling: Sequence[Request], num_decodes: int) -> Iterator[tuple[Request, StepItem]]:
        """Chunks of prompts for a step; whole prompts where that is about what there is time for."""
        room = self.step_tokens - num_decodes
        budget = self._prefill_budget(num_decodes) if num_decodes else self.step_tokens
        if len(prefilling) > 1 and (num_decodes or not 0 < self._tokens_in_time < SHARED_STEP):
            budget = min(budget, SHARED_STEP)
        spare = max(0, budget) // SPARE
        least = MIN_CHUNK if budget >= 2 * MIN_CHUNK else spare
        for i, request in enumerate(self._share.in_turn(prefilling)):
            remaining = request.num_uncomputed_prompt
            is_whole = remaining <= min(budget + spare, room)
            is_piece = i > 0 and not is_whole and budget < least
            if (num_decodes or i) and (budget <= 0 or is_piece):
                break
            size = remaining if is_whole else max(budget, 1)
            size = min(size, MAX_SCORED_CHUNK if request.is_scoring else remaining)
            size = request.chunk_size(size)
            chunk = request.prefill_ids[request.num_computed : request.num_computed + size]
            yield request, _item(request, chunk, is_last=size == remaining)
            budget, room = budget - size, room - size

    def _decode(self, request: Request) -> StepItem:
        """A request's latest token, and after it what is guessed of the next ones."""
        guessed = request.proposer.guess(self.most_guessed(request)) if request.proposer is not None else []
        tokens = [*request.output_ids[-1:], *guessed]
        slot, adapter = request.held_slot, request.adapter
        num_prompt = len(request.prompt_ids)
        return StepItem(slot, request.num_computed, tokens, True, bool(guessed), False, adapter, num_prompt)

    def most_guessed(self, request: Request) -> int:
        """How many tokens may be guessed after a request's latest one."""
        if request.matcher is not None:
            return 0
        left = request.max_new_tokens - len(request.output_ids) - 1
        return max(0, min(left, MAX_GUESSED_IN_STEP // len(self.running)))

    def record_step(self, num_tokens: int, seconds: float) -> None:
        """A step of so many tokens took so long. Short steps tell nothing of prefill."""
        if num_tokens >= MIN_CHUNK:
            rate = num_tokens / max(seconds, 1e-6)
            self._tokens_per_s = rate if self._tokens_per_s is None else 0.5 * (self._tokens_per_s + rate)

    @property
    def prefill_s(self) -> float:
        """How long the prompts that wait will take, as measured lately; 0 where nothing is known yet."""
        if not self._tokens_per_s:
            return 0.0
        return sum(request.num_uncomputed_prompt for request in self.waiting) / self._tokens_per_s

    def _prefill_budget(self, num_decodes: int) -> int:
        """Prompt tokens that a step may compute beside running streams."""
        return min(self.step_tokens - num_decodes, max(MIN_CHUNK, self._tokens_in_time))

    @property
    def _tokens_in_time(self) -> int:
        """Prompt tokens that are computed in `max_stall_s`; 0 where nothing is known yet."""
        return int((self._tokens_per_s or 0) * self._max_stall_s)

    def computed(self, request: Request, item: StepItem) -> None:
        """An item of the plan was computed; of guesses it is not known yet whether they are right."""
        tokens = item.tokens[:1] if is_guess(request, item) else item.tokens
        request.num_computed = item.start + len(tokens)
        self.cache.extend(item.slot, tokens)

    def confirm(self, request: Request, token_id: int) -> None:
        """A guess that was computed is right, so what was computed for it counts."""
        request.num_computed += 1
        self.cache.extend(request.held_slot, (token_id,))

    def _preempt(self, request: Request) -> None:
        self.num_preemptions += 1
        slot = self.remove(request)
        request.preempt()
        self.waiting.appendleft(request)
        if slot is not None:
            self._changes.append(Free(slot))

    def _preemptible(self) -> list[Request]:
        """Requests that can lose their slots: beam searches have had their memory kept for them."""
        return [request for request in self.running if request.beams is None]

    def _can_copy(self, length: int) -> bool:
        return self._pages is None or self._pages.has_free(length)

    def _grow(self, lengths: Mapping[int, int]) -> bool:
        """Take memory for slots that will be so long; False where there is none."""
        if self._pages is None:
            return True
        trims = self._pages.grow(lengths)
        self._changes.extend(trims or ())
        return trims is not None

    def _reserve(self, beams: Sequence[Request]) -> None:
        """Take all the memory that a beam search may need: it can't lose its slots."""
        if self._pages is None:
            return
        lengths = {beam.held_slot: len(beam.prompt_ids) + beam.max_new_tokens for beam in beams}
        trims = self._pages.reserve(lengths)
        if trims is None:
            raise RuntimeError(f"no memory for the beams of request {beams[0].id}, though there is some")
        self._changes.extend(trims)

    def _has_memory(self, request: Request) -> bool:
        """Whether a request can be let in beside those that run; alone it always can."""
        if self._pages is None or not self.running:
            return True
        leaders = {each.leader for each in self.running}
        return sum(map(self._num_pages, (*leaders, request))) <= self._pages.num_pages

    def _num_pages(self, request: Request) -> int:
        """Pages that a request is to have: those of its prompt and one more, or all where they can't be taken back."""
        if self._pages is None:
            return 0
        most = self._pages.count(len(request.prompt_ids) + request.max_new_tokens)
        if request.beams is not None:
            return most * request.num_slots
        length = max(len(request.prefill_ids), request.num_computed)
        return min(self._pages.count(length + 1) + 1, most)

    def _is_worth_waiting(self, request: Request) -> bool:
        """Whether a running request is computing a prefix that this one shares, and is not there yet."""
        if not self._has_prefix_cache or not request.can_reuse_prefix:
            return False
        prompt = request.prompt_ids
        if len(prompt) <= MIN_SHARED:
            return False
        start = prompt[:MIN_SHARED]
        for other in self.running:
            if other.is_parked or not other.num_uncomputed_prompt or other.cache_salt != request.cache_salt:
                continue
            if other.prompt_ids[:MIN_SHARED] != start:  # which is found out sooner
                continue
            if other.num_computed < min(common_prefix(other.prompt_ids, prompt), len(prompt) - 1):
                return True
        return False


def is_guess(request: Request, item: StepItem) -> bool:
    """Whether an item has guesses after its first token."""
    return item.wants_every and item.start >= len(request.prompt_ids)


def _without_guesses(request: Request, item: StepItem) -> StepItem:
    return item._replace(tokens=item.tokens[:1], wants_every=False) if is_guess(request, item) else item


def _lengths(plan: Sequence[tuple[Request, StepItem]]) -> dict[int, int]:
    """How long the slots of a step will be."""
    return {item.slot: item.start + len(item.tokens) for _, item in plan}


def _item(request: Request, tokens: Sequence[int], *, is_last: bool) -> StepItem:
    return StepItem(
        request.held_slot,
        request.num_computed,
        tokens,
        wants_logits=(is_last and not request.is_embedding and not request.output_ids) or request.is_scoring,
        wants_every=request.is_scoring,
        wants_mean=request.is_embedding,
        adapter=request.adapter,
        num_prompt_tokens=len(request.prompt_ids),
    )
