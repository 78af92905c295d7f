"""An adapter of a local model: what was read of it, and how many requests have it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmapi_kit.engines.local.prompt_builder import PromptBuilder


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFiles:
    """An adapter as it was read.

    Attributes:
        weights: for `AdapterRunner.add_adapter`.
        size_bytes: of the weights in memory.
        rank: the largest of its layers'; 0 where that is not known.
        prompts: of an adapter with a chat template of its own; None for the model's.
        eos_ids: tokens that end its answers, beside the model's.
    """

    weights: object
    size_bytes: int = 0
    rank: int = 0
    prompts: PromptBuilder | None = None
    eos_ids: frozenset[int] = frozenset()


@dataclass(slots=True, eq=False)
class LoadedAdapter:
    """An adapter that requests can have.

    Attributes:
        number: what the runner knows it by; above 0.
        name: of the adapter alone.
        source: as it was given.
        files: what was read.
        added_at: Unix time.
        num_running: requests with it.
        is_removed: whether it takes no new ones.
    """

    number: int
    name: str
    source: str
    files: AdapterFiles
    added_at: float = field(default_factory=time.time)
    num_running: int = 0
    is_removed: bool = False
