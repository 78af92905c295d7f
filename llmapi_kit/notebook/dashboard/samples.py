"""Figures of a server, a moment at a time, and the latest of them.

Reads what is counted anyway; asks nobody and waits for nothing. On the dashboard's thread.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from llmapi_kit.server.server import Server

NUM_KEPT = 300


@dataclass(frozen=True, slots=True)
class Sample:
    """A server at one moment.

    Attributes:
        at: Unix time.
        tokens_per_s: made since the sample before.
        num_running: requests that hold a slot.
        num_queued: requests that wait for one.
        first_token_s: the median of the requests that had their first token since; None without any.
        kv_use: share of the KV memory that holds something, of the model that uses most.
        process_bytes: memory of this process.
        gpu_bytes: memory that this process holds on GPUs; None where it uses none.
        num_finished: requests answered in full, since the models were loaded.
        num_failed: requests that failed.
        num_cancelled: requests that were stopped.
        num_prompt_tokens: tokens of prompts.
        num_completion_tokens: tokens made.
    """

    at: float
    tokens_per_s: float
    num_running: int
    num_queued: int
    first_token_s: float | None
    kv_use: float
    process_bytes: int
    gpu_bytes: int | None
    num_finished: int
    num_failed: int
    num_cancelled: int
    num_prompt_tokens: int
    num_completion_tokens: int


class Sampler:
    """Takes samples and keeps the latest.

    Args:
        clock: Unix time; goes forward only.

    Attributes:
        samples: the latest, oldest first.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.samples: deque[Sample] = deque(maxlen=NUM_KEPT)
        self._clock = clock
        self._process = psutil.Process()
        self._num_first_tokens = 0

    def take(self, server: Server) -> Sample:
        """Look at a server now."""
        stats = [engine.stats() for engine in server.engines] if server.is_running else []
        now, made = self._clock(), sum(each.num_completion_tokens for each in stats)
        before = self.samples[-1] if self.samples else None
        is_later = before is not None and now > before.at
        sample = Sample(
            at=now,
            # Fewer than before are those of another model, which counts from 0
            tokens_per_s=max(0, made - before.num_completion_tokens) / (now - before.at) if before and is_later else 0,
            num_running=sum(each.num_running for each in stats),
            num_queued=sum(each.num_queued for each in stats),
            first_token_s=self._first_token(server),
            kv_use=max((each.kv_use for each in stats), default=0.0),
            process_bytes=self._process.memory_info().rss,
            gpu_bytes=gpu_bytes(),
            num_finished=sum(each.num_finished for each in stats),
            num_failed=sum(each.num_failed for each in stats),
            num_cancelled=sum(each.num_cancelled for each in stats),
            num_prompt_tokens=sum(each.num_prompt_tokens for each in stats),
            num_completion_tokens=made,
        )
        self.samples.append(sample)
        return sample

    def _first_token(self, server: Server) -> float | None:
        num, times = server.first_token_times()
        num_new, self._num_first_tokens = max(0, num - self._num_first_tokens), num
        new = times[-num_new:] if num_new else []
        return statistics.median(new) if new else None


def gpu_bytes() -> int | None:
    """Memory that torch holds on the GPUs; None where it was not asked for any."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return sum(int(torch.cuda.memory_reserved(index)) for index in range(torch.cuda.device_count()))
