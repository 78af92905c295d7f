"""What a batching loop counts: requests, tokens, latencies, and tokens made lately.

Written by the engine thread; any thread may read a snapshot.
"""

from __future__ import annotations

import time
from collections import deque

from llmapi_kit.batching.request import Request
from llmapi_kit.types import EngineStats

WINDOW_S, INTERVAL_S = 10.0, 0.5  # over which tokens a second are counted, and in which steps are counted together


class Counters:
    """Counts for one engine.

    Args:
        num_slots: of its runner.

    Attributes:
        stats: counted since the start; what is only known at a moment is left as it was.
    """

    def __init__(self, num_slots: int) -> None:
        self.stats = EngineStats(num_slots=num_slots)
        self._lately: deque[tuple[float, int]] = deque()  # when an interval began, and tokens made in it

    def count(self, num_tokens: int) -> None:
        """Count tokens that were made just now."""
        self.stats.num_completion_tokens += num_tokens
        now = time.monotonic()
        if self._lately and now - self._lately[-1][0] < INTERVAL_S:
            at, num = self._lately[-1]
            self._lately[-1] = at, num + num_tokens
        else:
            self._lately.append((now, num_tokens))
            while now - self._lately[0][0] > WINDOW_S:
                self._lately.popleft()

    def observe(self, request: Request, now: float) -> None:
        """Count how long a request waited for the token that it has just got."""
        if request.last_token_at:
            self.stats.inter_token.observe(now - request.last_token_at)
        else:
            self.stats.ttft.observe(now - request.enqueued_at)
        request.last_token_at = now

    def tokens_per_s(self) -> float:
        """Tokens made a second, lately."""
        now = time.monotonic()
        counted = [(at, num) for at, num in tuple(self._lately) if now - at <= WINDOW_S]
        span_s = max(1.0, now - counted[0][0]) if counted else 1.0
        return sum(num for _, num in counted) / span_s
