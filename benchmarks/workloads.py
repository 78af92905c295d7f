"""What the servers are asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Workload:
    """A kind of request; lengths are in words, which are a token each, without what the chat template adds.

    Attributes:
        name: for the tables.
        prompt_words: of the user message.
        shared_words: of a system message that all requests have in common.
        max_tokens: made by each request.
    """

    name: str
    prompt_words: int
    shared_words: int
    max_tokens: int

    @property
    def label(self) -> str:
        """What it is, for people."""
        shared = f" after a system prompt of {self.shared_words} that all share" if self.shared_words else ""
        return f"{self.name}: {self.prompt_words} tokens in{shared}, {self.max_tokens} out"


WORKLOADS = {
    "short": Workload("short", 16, 0, 64),
    "long": Workload("long", 1000, 0, 32),
    "shared": Workload("shared", 16, 900, 32),
}
# A 90 times larger model on the same cores: shorter, or a run takes hours
SHRINK = {"qwen": 8, "qwen-q4_k_m": 8}


def workload_for(name: str, model: str, *, is_quick: bool) -> Workload:
    """A workload, cut down for a large model or a quick run.

    Raises:
        KeyError: there is no such workload.
    """
    workload = WORKLOADS[name]
    shrink = SHRINK.get(model, 1)
    if shrink > 1:
        workload = replace(
            workload,
            prompt_words=max(16, workload.prompt_words // shrink),
            shared_words=workload.shared_words // shrink,
            max_tokens=workload.max_tokens // 2,
        )
    return replace(workload, max_tokens=min(8, workload.max_tokens)) if is_quick else workload
