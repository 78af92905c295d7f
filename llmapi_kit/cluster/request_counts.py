"""Counts requests by the events that pass, for an engine whose work is done elsewhere.

Knows nothing of Ray. Whoever dies there takes no count along, and what several servers count adds up.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from llmapi_kit.cluster.replica import Report
from llmapi_kit.types import Accepted, Delta, EngineStats, Event, Failed, Finished

EventT = TypeVar("EventT", bound=Event)
RATE_WINDOW_S = 10.0
MAX_REPORT_AGE_S = 60.0


class RequestCounts:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stats = EngineStats()
        self._reports: dict[str, tuple[float, Report]] = {}
        self._recent: deque[tuple[float, int]] = deque(maxlen=100_000)

    @contextmanager
    def request(self, num_answers: int) -> Iterator[CountedRequest]:
        """Count a request for so many answers, which is under way in the block."""
        counted = CountedRequest(self, num_answers)
        with self._lock:
            self._stats.num_queued += 1
        try:
            yield counted
        except Exception:  # whatever it is, it is passed on
            counted.is_over = True  # refused
            raise
        finally:
            with self._lock:
                if counted.first_token_at is None:
                    self._stats.num_queued -= 1
                else:
                    self._stats.num_running -= 1
                self._stats.num_cancelled += not counted.is_over

    def report(self, report: Report) -> None:
        """Take what a replica tells of itself."""
        with self._lock:
            self._reports[report.replica] = time.monotonic(), report

    def stats(self) -> EngineStats:
        """What was counted; slots and the use of memory are those of replicas that answered lately."""
        now = time.monotonic()
        with self._lock:
            self._reports = {
                name: (at, report) for name, (at, report) in self._reports.items() if now - at < MAX_REPORT_AGE_S
            }
            while self._recent and now - self._recent[0][0] > RATE_WINDOW_S:
                self._recent.popleft()
            theirs = [report.stats for _, report in self._reports.values()]
            return replace(
                self._stats,
                num_slots=sum(each.num_slots for each in theirs),
                kv_use=sum(each.kv_use for each in theirs) / len(theirs) if theirs else 0.0,
                num_guessed_tokens=sum(each.num_guessed_tokens for each in theirs),
                num_right_guesses=sum(each.num_right_guesses for each in theirs),
                tokens_per_s=sum(num for _, num in self._recent) / RATE_WINDOW_S,
                ttft=self._stats.ttft.copy(),
                inter_token=self._stats.inter_token.copy(),
            )

    def count(self, counted: CountedRequest, event: Event) -> None:
        """Count an event of a request."""
        now = time.monotonic()
        with self._lock:
            if isinstance(event, Accepted):
                return
            if isinstance(event, Delta):
                self._count_tokens(counted, event, now)
            elif isinstance(event, Finished):
                self._stats.num_prompt_tokens += event.num_prompt_tokens if event.index == 0 else 0
                self._stats.num_cached_tokens += event.num_cached_tokens if event.index == 0 else 0
                counted.num_left -= 1
                counted.is_over = counted.num_left == 0
                self._stats.num_finished += counted.is_over
            elif isinstance(event, Failed):
                self._stats.num_failed += 1
                counted.is_over = True

    def _count_tokens(self, counted: CountedRequest, event: Delta, now: float) -> None:
        stats = self._stats
        if counted.first_token_at is None:
            counted.first_token_at = now
            stats.num_queued -= 1
            stats.num_running += 1
            stats.ttft.observe(now - counted.begun_at)
        else:
            stats.inter_token.observe((now - counted.last_token_at) / max(1, event.num_tokens))
        counted.last_token_at = now
        stats.num_completion_tokens += event.num_tokens
        self._recent.append((now, event.num_tokens))


class CountedRequest:
    """One request.

    Args:
        counts: where it is counted.
        num_answers: that it asks for.
    """

    def __init__(self, counts: RequestCounts, num_answers: int) -> None:
        self._counts = counts
        self.num_left = num_answers
        self.begun_at = time.monotonic()
        self.first_token_at: float | None = None
        self.last_token_at = 0.0
        self.is_over = False

    def record(self, event: EventT) -> EventT:
        """Count an event of it; the same event."""
        self._counts.count(self, event)
        return event
