"""Computes what one key that floods a model costs another one: how long the other's requests take, with it and without.

The scheduler is the real one; time is simulated, so the figures are the same on every machine. A step takes a fixed
time, and a little for each of its tokens, as on a GPU. One key sends a request now and then, the other one keeps many
waiting. For comparison the flood also comes with the same key, where everybody is served as they come.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence

from benchmarks.figures import percentile, ratio, shown
from benchmarks.measuring import command_line, make_parser, write_results
from llmapi_kit.batching.fair_share import FairShare
from llmapi_kit.batching.request import Request
from llmapi_kit.batching.scheduler import Scheduler
from llmapi_kit.sampling.detokenize import ByteDetokenizer
from llmapi_kit.sampling.parameters import SamplingParams

NUM_SLOTS = 32
NUM_FLOODING = 128
STEP_S, TOKEN_S = 0.010, 0.000010
PAUSE_S = 0.05
ANSWERS = (16, 256)
PROMPTS = (16, 512)
STEP_TOKENS = 512
FLOODS = {"alone": None, "beside a flood with another key": "flood", "beside a flood with the same key": "other"}
Times = dict[str, list[float]]


def main(argv: Sequence[str] | None = None) -> int:
    """Compute and report."""
    args = _parse(argv)
    times = {label: Simulation(flooding).run(args.requests) for label, flooding in FLOODS.items()}
    lines = ["# What a flooding key costs another one", "", f"Made by `{command_line('fair_share', argv)}`.", ""]
    lines += [
        f"{args.requests:,} requests with prompts of {PROMPTS[0]} to {PROMPTS[1]} and answers of {ANSWERS[0]} to "
        f"{ANSWERS[1]} tokens; {NUM_SLOTS} slots; a step of {STEP_S * 1e3:g} ms and {TOKEN_S * 1e6:g} µs a token; the "
        f"flood keeps {NUM_FLOODING} such requests there. Simulated times of the other key's requests, in ms.",
        "",
        *table(times),
    ]
    write_results(args.results, "fair_share", "\n".join(lines), {"times_s": times})
    return 0


def table(times: Times) -> list[str]:
    """The median and the 95th percentile of each, and how much longer the flood makes them."""
    lines = ["| | median | p95 | p95 over alone |", "|---|---|---|---|"]
    alone = percentile(times["alone"], 95)
    for label, seconds in times.items():
        p50, p95 = (percentile([1000 * each for each in seconds], percent) for percent in (50, 95))
        over = ratio(p95, None if alone is None else 1000 * alone)
        lines.append(f"| {label} | {shown(p50)} | {shown(p95)} | {shown(over)} |")
    return lines


class Simulation:
    """A model's scheduler in simulated time.

    Args:
        flooding: the key that floods; None for none.
    """

    def __init__(self, flooding: str | None) -> None:
        self._flooding = flooding
        self._now = 0.0
        self._scheduler = Scheduler(NUM_SLOTS, STEP_TOKENS, has_prefix_cache=False)
        self._scheduler._share = FairShare(NUM_SLOTS, clock=lambda: self._now)
        self._flood_numbers, self._numbers = random.Random(1), random.Random(2)
        self._num_flooding = 0

    def run(self, num_requests: int) -> list[float]:
        """How long each request of the key "other" took, in seconds."""
        times: list[float] = []
        asked_at, mine = 0.0, None
        while len(times) < num_requests:
            while self._flooding is not None and self._num_flooding < NUM_FLOODING:
                self._num_flooding += 1
                self._add("flood", self._flooding, self._flood_numbers)
            if mine is None and self._now >= asked_at:
                mine = self._add("mine", "other", self._numbers)
            for request in self._step(asked_at):
                if request is mine:
                    times.append(self._now - asked_at)
                    asked_at, mine = self._now + PAUSE_S, None
                else:
                    self._num_flooding -= 1
        return times

    def _add(self, name: str, key_id: str, numbers: random.Random) -> Request:
        ids, length = [1] * numbers.randint(*PROMPTS), numbers.randint(*ANSWERS)
        request = Request(name, ids, SamplingParams(), length, ByteDetokenizer(_no_bytes), key_id=key_id)
        self._scheduler.add(request)
        return request

    def _step(self, until: float) -> list[Request]:
        """Compute one step, or wait where there is nothing to do; returns the requests that ended."""
        self._scheduler.admit()
        plan = self._scheduler.schedule()
        if not plan:
            self._now = until
            return []
        num_tokens = sum(len(item.tokens) for _, item in plan)
        step_s = STEP_S + TOKEN_S * num_tokens
        self._now += step_s
        self._scheduler.record_step(num_tokens, step_s)
        ended = []
        for request, item in plan:
            self._scheduler.computed(request, item)
            if item.wants_logits:
                request.output_ids.append(1)
                if request.is_at_limit:
                    self._scheduler.remove(request)
                    ended.append(request)
        return ended


def _no_bytes(token_id: int, *, skip_special_tokens: bool = True) -> bytes:
    return b""


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--requests", type=int, default=500, help="of the other key; default: 500")
    args = parser.parse_args(argv)
    if args.quick:
        args.requests = 10
    return args


if __name__ == "__main__":
    sys.exit(main())
