"""Computes how many replicas a number of conversations needs, what routing and queues do, and what is lost with a zone.

Time is simulated and every random number has a seed, so the figures are the same on every machine. An engine's costs
are a line through measured rates, and what is around it comes from the JSON of benchmarks/cluster.py where that is
there. How people talk is assumed; the report says what.

A million conversations are a sum of cells: a conversation never leaves its cell, so cells share nothing that is
simulated, and the first table shows that the size of a cell hardly changes how many conversations a replica serves.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.cluster_study import MAX_P99_S, ZONE_BACK_AFTER_S, Study
from benchmarks.engine_costs import MEASURED_RATES, fit, with_measured_overhead
from benchmarks.figures import median, shown
from benchmarks.measuring import command_line, make_parser, numbers, write_results
from benchmarks.simulated_cluster import MUCH_MORE, ZONES, Talk, at_random, by_prefix, least_loaded
from benchmarks.simulated_replica import Limits

CONVERSATIONS = (10_000, 1_000_000)
BEST = Limits().max_slots  # as the routers of the kit do
ROUTERS = {"random": at_random, "least loaded": least_loaded} | {
    f"prefix, up to {much_more} more": by_prefix(much_more) for much_more in (MUCH_MORE, 8, 16, BEST)
}
ROUTER = by_prefix(BEST)
LOADS = (0.3, 0.6, 1.0)
QUEUES = (0, 32, 128)
OVERLOAD = 1.5
SPARE = (0.0, 0.25, 0.5)


@dataclass(frozen=True, slots=True)
class Table:
    """A part of the report."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> list[str]:
        """Its lines."""
        lines = [self.header, ["---:"] * len(self.header), *self.rows]
        return [f"## {self.title}", "", *(f"| {' | '.join(line)} |" for line in lines), ""]


def capacity(study: Study, cells: Sequence[int]) -> tuple[Table, int]:
    """Conversations that a replica serves well by the size of a cell, and those of the largest cell."""
    rows, served = [], 0
    for num_replicas in cells:
        found = [study.most_people(num_replicas, ROUTER, seed) for seed in range(study.repeats)]
        served = int(median([float(each) for each in found]) or 0)
        rows.append([f"{num_replicas}", f"{served}", f"{min(found)} to {max(found)}"])
    title = f"What a replica serves, by the size of a cell (prefix routing, up to {BEST} more)"
    return Table(title, ("Replicas", "Conversations of each", "least to most of the repeats"), rows), served


def needed(served: int, cell: int) -> Table:
    """Replicas for each number of conversations, and with what a lost zone takes."""
    rows = []
    for conversations in CONVERSATIONS:
        replicas = math.ceil(conversations / max(1, served))
        cells, safe = math.ceil(replicas / cell), math.ceil(replicas * ZONES / (ZONES - 1))
        rows.append([f"{conversations:,}", f"{replicas:,}", f"{cells:,}", f"{safe:,}"])
    header = ("Conversations", "Replicas", f"Cells of {cell}", f"Replicas that are enough without one zone of {ZONES}")
    return Table("How many replicas", header, rows)


def routing(study: Study, cell: int, served: int) -> Table:
    """Each router at parts of what a replica serves well."""
    rows = []
    for load in LOADS:
        for name, router in ROUTERS.items():
            found = study.summary(round(load * served * cell), cell, router)
            times = [shown(found.p50_s, " s"), shown(found.p99_s, " s")]
            rows.append([f"{load:.0%}", name, *times, f"{found.hit_rate:.1%}", shown(found.tokens_per_s)])
    header = ("Load", "Router", "TTFT p50", "TTFT p99", "Prefix hits", "Tokens/s")
    return Table(f"Routing, in a cell of {cell} replicas", header, rows)


def queueing(study: Study, cell: int, served: int) -> Table:
    """What a longer queue does where more people come than are served well."""
    rows = []
    for max_queue in QUEUES:
        tried = replace(study, limits=replace(study.limits, max_queue=max_queue))
        found = tried.summary(round(OVERLOAD * served * cell), cell, ROUTER)
        times = [shown(found.p50_s, " s"), shown(found.p99_s, " s")]
        rows.append([f"{max_queue}", *times, shown(found.refused), shown(found.tokens_per_s)])
    header = ("Queue of a replica", "TTFT p50", "TTFT p99", "429s for each question", "Tokens/s")
    return Table(f"Queues, at {OVERLOAD:.0%} of what is served well, in a cell of {cell} replicas", header, rows)


def zone_loss(study: Study, cell: int, served: int) -> Table:
    """A zone goes, with and without replicas to spare."""
    rows = []
    for spare in SPARE:
        num_replicas = math.ceil(cell * (1 + spare))
        loss = study.zone_loss(served * cell, num_replicas, ROUTER)
        counts = [f"{each:,.0f}" for each in (num_replicas, loss.broken, loss.again, loss.refused)]
        back = "not in time" if math.isinf(loss.recovered_s) else f"{loss.recovered_s:.0f} s"
        rows.append([f"{spare:.0%}", *counts, shown(loss.worst_p95_s, " s"), back])
    header = ("Spare", "Replicas", "Streams broken", "Asked again", "429s", "Worst p95 of 10 s", "Served well after")
    title = f"One zone of {ZONES} goes, and as many replicas have started elsewhere after {ZONE_BACK_AFTER_S:g} s"
    return Table(title, header, rows)


def assumptions(study: Study, overhead_source: str) -> list[str]:
    """What the figures rest on."""
    costs, talk, limits = study.costs, study.talk, study.limits
    return [
        f"A step takes {costs.step_s * 1e3:.1f} ms and {costs.token_s * 1e3:.2f} ms for each token in it, of a prompt "
        "or of an answer: the line through measured rates. That a prompt's token costs as much as an answer's is "
        f"assumed. {costs.overhead_s * 1e3:.1f} ms around a request are {overhead_source}. A replica has "
        f"{limits.max_slots} slots, a queue of {limits.max_queue}, and keeps keys and values of "
        f"{limits.cache_tokens:,} tokens.",
        "",
        f"How people talk is assumed, too. They think for {talk.think_s:g} s in the median before they ask, questions "
        f"have {talk.message} tokens and answers {talk.answer}, with heavy tails (lognormal, sigma "
        f"{talk.think_sigma:g} and {talk.sigma:g}). A conversation has {talk.mean_turns:g} turns in the mean and "
        f"begins with a system prompt of {talk.system} tokens that all share; each prompt has all of it so far, up to "
        f"{talk.context:,} tokens.",
        "",
        f"Served well means: the p99 of the time to the first token is at most {MAX_P99_S:g} s, and nobody is told to "
        f"come back. Who is comes back after {talk.retry_s:g} s; that counts as part of the time to the first token.",
        "",
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate and report."""
    args = _parse(argv)
    costs, source = with_measured_overhead(fit(args.rates), args.figures)
    study = Study(costs, Limits(cache_tokens=args.cache_tokens), Talk(), repeats=args.repeats)
    if args.quick:
        study = replace(study, warm_up_s=20.0, measured_s=40.0)
    cell = args.cells[len(args.cells) // 2]
    served_by_size, served = capacity(study, args.cells)
    tables = [served_by_size, needed(served, args.cells[-1])]
    tables += [make(study, cell, served) for make in (routing, queueing, zone_loss)]
    lines = ["# A cluster, simulated", "", f"Made by `{command_line('cluster_simulation', argv)}`.", ""]
    lines += [f"Simulated time; medians over repeats with other random numbers: {study.repeats}.", ""]
    lines += assumptions(study, source) + [line for table in tables for line in table.markdown()]
    write_results(
        args.results,
        "cluster_simulation",
        "\n".join(lines),
        {"study": asdict(study), "tables": [asdict(table) for table in tables]},
    )
    return 0


def _rates(text: str) -> dict[int, float]:
    """Reads ``1:54,8:294``."""
    pairs = [part.split(":") for part in text.split(",")]
    return {int(streams): float(rate) for streams, rate in pairs}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--rates", type=_rates, default=MEASURED_RATES, help="tokens/s by streams, such as 1:54,32:610")
    parser.add_argument("--figures", type=Path, help="the JSON of benchmarks/cluster.py; default: the one in --results")
    parser.add_argument("--cells", type=numbers, default=[4, 16, 64], help="numbers of replicas; default: 4,16,64")
    parser.add_argument("--cache-tokens", type=int, default=Limits().cache_tokens, help="that a replica keeps")
    args = parser.parse_args(argv)
    args.figures = args.figures or args.results / "cluster.json"
    if args.quick:
        args.cells = [2, 3]
    return args


if __name__ == "__main__":
    sys.exit(main())
