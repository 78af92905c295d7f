"""What is counted of each key's use. Light, so that whoever counts need not import a database."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """What was used.

    Attributes:
        requests: that an engine accepted, however they ended.
        failed: those that ended in an error.
        cancelled: those whose client left, or that were stopped.
        prompt_tokens: tokens of their prompts.
        cached_tokens: those of them that a prefix cache spared.
        completion_tokens: tokens made for them, also for those that were not completed.
        embedding_tokens: tokens embedded.
        images: pictures made.
    """

    requests: int = 0
    failed: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    embedding_tokens: int = 0
    images: int = 0

    @property
    def tokens(self) -> int:
        """Of prompts, answers and what was embedded."""
        return self.prompt_tokens + self.completion_tokens + self.embedding_tokens

    def add(self, other: Counts) -> None:
        """Add what else was used."""
        self.requests += other.requests
        self.failed += other.failed
        self.cancelled += other.cancelled
        self.prompt_tokens += other.prompt_tokens
        self.cached_tokens += other.cached_tokens
        self.completion_tokens += other.completion_tokens
        self.embedding_tokens += other.embedding_tokens
        self.images += other.images


@dataclass(frozen=True, slots=True)
class DayUsage:
    """What one key used of one model on one day.

    Attributes:
        date: the day in UTC, as ``2026-11-30``.
        model: that answered.
        counts: what was used.
    """

    date: str
    model: str
    counts: Counts
