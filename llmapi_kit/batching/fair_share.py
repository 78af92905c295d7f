"""Whose turn it is, where several keys want slots of one model.

A slot makes a token a step, whoever holds it, so slots are what is shared: the next free one goes to the key that holds
the fewest, and between equals to the one whose turn was longest ago. Keys with short answers and keys with long ones so
get the same tokens, which turns by request would not give them. Within a key it is first come, first served.

A key that keeps the model busy would still make another one wait until one of its answers ends. So a slot is kept free
for each key that was here lately and has nothing under way, up to a quarter of them; a key alone has them all.
Knows nothing of prompts or of steps. Engine thread only.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from llmapi_kit.batching.request import Request

LATELY_S = 60.0
MOST_KEPT_FREE = 4  # one of so many slots


@dataclass(slots=True)
class _Turns:
    """When a key was here, and had its last turns, by number."""

    seen_at: float = 0.0
    slot: int = 0
    prefill: int = 0


class FairShare:
    """Turns of keys.

    Args:
        num_slots: that are shared.
        clock: seconds that never go back.
    """

    def __init__(self, num_slots: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._num_slots = num_slots
        self._clock = clock
        self._keys: dict[str, _Turns] = {}
        self._num_turns = 0

    def came(self, key_id: str) -> None:
        """A request of this key came."""
        now = self._clock()
        if key_id not in self._keys:
            old = [each for each, turns in self._keys.items() if now - turns.seen_at > LATELY_S]
            for each in old:
                del self._keys[each]
        self._turns(key_id).seen_at = now

    def next(
        self, waiting: Iterable[Request], running: Sequence[Request], passed_over: Collection[Request] = ()
    ) -> Request | None:
        """The waiting request whose turn it is; None where no key may have another slot now.

        Args:
            waiting: the oldest first.
            running: those with a slot.
            passed_over: waiting ones that don't want one yet.
        """
        first: dict[str, Request] = {}
        for request in waiting:
            if request.key_id not in first and request not in passed_over:
                first[request.key_id] = request
        if len(self._keys) < 2:
            return next(iter(first.values()), None)
        held = Counter(request.key_id for request in running)
        num_free = self._num_slots - len(running)
        may = [key_id for key_id in first if num_free > self._num_kept_from(key_id, held, first)]
        if not may:
            return None
        return first[min(may, key=lambda key_id: (held[key_id], self._turns(key_id).slot))]

    def took_slot(self, request: Request) -> None:
        """A request was given its slot."""
        self._turns(request.key_id).slot = self._next_turn()

    def in_turn(self, prefilling: Sequence[Request]) -> Sequence[Request]:
        """Running requests whose prompts are to be computed, in the order in which they share a step's budget.

        Each key's oldest comes first, and of those that of the key which was first longest ago.
        """
        if not prefilling:
            return prefilling
        num_before: Counter[str] = Counter()
        ranked = []
        for request in prefilling:
            ranked.append((num_before[request.key_id], self._turns(request.key_id).prefill, request))
            num_before[request.key_id] += 1
        ordered = [request for _, _, request in sorted(ranked, key=lambda each: each[:2])]
        self._turns(ordered[0].key_id).prefill = self._next_turn()
        return ordered

    def _num_kept_from(self, key_id: str, held: Counter[str], first: dict[str, Request]) -> int:
        """How many free slots a key may not take; none for its first one."""
        if not held[key_id]:
            return 0
        now = self._clock()
        idle = sum(
            each != key_id and not held[each] and each not in first and now - turns.seen_at <= LATELY_S
            for each, turns in self._keys.items()
        )
        return min(idle, self._num_slots // MOST_KEPT_FREE)

    def _turns(self, key_id: str) -> _Turns:
        return self._keys.setdefault(key_id, _Turns())

    def _next_turn(self) -> int:
        self._num_turns += 1
        return self._num_turns
