"""What an engine's work costs, from measured figures: a line through the times of its steps, and what is around them.

A step takes a fixed time, for reading the weights, and a little for each token in it. Measured are tokens a second at
several numbers of streams; with so many streams, each step makes a token for each of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

# docs/performance.md: a Qwen2 shape of 0.36 B in bfloat16 over HTTP, on two cores
MEASURED_RATES = {1: 54.0, 8: 294.0, 32: 610.0}
ASSUMED_OVERHEAD_S = 0.007  # until benchmarks/cluster.py has measured it


@dataclass(frozen=True, slots=True)
class EngineCosts:
    """See the module.

    Attributes:
        step_s: of a step without its tokens.
        token_s: of each token in it, one that is made or one of a prompt.
        overhead_s: of a request, from the client to the engine.
    """

    step_s: float
    token_s: float
    overhead_s: float = 0.0

    def step_time_s(self, num_tokens: int) -> float:
        """How long a step with so many tokens takes."""
        return self.step_s + self.token_s * num_tokens


def fit(rates: Mapping[int, float]) -> EngineCosts:
    """The line that is nearest to the measured steps, in relative terms.

    Args:
        rates: tokens a second by the number of streams; two or more.

    Raises:
        ValueError: there are too few, or they get slower with more streams.
    """
    if len(rates) < 2:
        raise ValueError(f"There are {len(rates)} measured rates; a line needs two or more, such as 1:54,32:610.")
    times = {num: num / rate for num, rate in rates.items()}
    weights = {num: 1 / seconds**2 for num, seconds in times.items()}
    total = sum(weights.values())
    mean_num = sum(weights[num] * num for num in times) / total
    mean_s = sum(weights[num] * seconds for num, seconds in times.items()) / total
    spread = sum(weights[num] * (num - mean_num) ** 2 for num in times)
    token_s = sum(weights[num] * (num - mean_num) * (seconds - mean_s) for num, seconds in times.items()) / spread
    step_s = mean_s - token_s * mean_num
    if token_s <= 0 or step_s < 0:
        raise ValueError(f"{dict(rates)} are no rates of an engine that batches: a line would be {step_s:g} s a step.")
    return EngineCosts(step_s, token_s)


def with_measured_overhead(costs: EngineCosts, path: Path | None) -> tuple[EngineCosts, str]:
    """The costs with what benchmarks/cluster.py measured around the engine, and where that is from.

    Args:
        costs: of the engine.
        path: of the JSON that benchmarks/cluster.py writes; None, or of no file, for what is assumed.
    """
    if path is None or not path.is_file():
        overhead_s, source = ASSUMED_OVERHEAD_S, "assumed, as no measured figures are there"
    else:
        measured = json.loads(path.read_text(encoding="utf-8"))
        # The router's part is in it. A difference of two medians may come out below nothing
        overhead_s = max(0.0, float(measured["request_overhead_s"]))
        source = f"measured, from {path.name}"
    return replace(costs, overhead_s=overhead_s), source
