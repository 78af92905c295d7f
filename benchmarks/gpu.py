"""Measures decoding on a GPU against what the card's memory allows, and against another server.

A 7 B parameter model in bfloat16 with random weights, 1 and 64 streams over HTTP: this server and `transformers serve
--continuous-batching`, in turns. Every step reads all weights once, so streams times the measured memory bandwidth
over their size is the most tokens/s that there can be. The bandwidth is measured before anything is loaded.

Needs a CUDA card with 24 GB of memory or more, 16 GB of disk and some minutes to make the model. It has not been run
on a GPU yet.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.contenders import OURS, Contender, make_contender, make_ours
from benchmarks.figures import median, shown
from benchmarks.machine import describe_machine, machine_line
from benchmarks.measuring import command_line, make_parser, numbers, run_load, write_results
from benchmarks.models import NAMES as MODELS
from benchmarks.models import BenchModel, make_model
from benchmarks.processes import stop_on_sigterm

NO_GPU = (
    "There is no CUDA card here, or this torch has no support for it. `python -m benchmarks.serving` measures CPUs."
)
PEER = "transformers-cb"
MAX_TOKENS = 256
COPIED_BYTES = 2**30
NUM_COPIES = 20
Rates = dict[tuple[str, int], list[float]]  # (contender, streams) to tokens/s of the repeats


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    args = _parse(argv)
    import torch

    if not torch.cuda.is_available():
        sys.exit(NO_GPU)
    stop_on_sigterm()
    card = torch.cuda.get_device_name()
    bandwidth = measure_bandwidth(torch)
    print(f"{card}: {bandwidth / 1e9:,.0f} GB/s", flush=True)
    model = make_model(args.model, args.work)
    rates = measure(model, args)
    machine = {"card": card, **describe_machine()}
    lines = ["# Decoding on a GPU", "", f"Made by `{command_line('gpu', argv)}`.", "", machine_line(machine), ""]
    lines += [f"{model.label}; medians over {args.repeats} repeats, in tokens/s over HTTP.", ""]
    lines += table(rates, args.streams, bandwidth, 2 * model.num_parameters)
    data = {
        "machine": machine,
        "bytes_per_s": bandwidth,
        "rates": [{"who": who, "streams": streams, "per_s": values} for (who, streams), values in rates.items()],
    }
    write_results(args.results, "gpu", "\n".join(lines), data)
    return 0


def measure_bandwidth(torch: Any) -> float:
    """Bytes/s that the card reads and writes when it copies its own memory; the best of some copies."""
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(NUM_COPIES):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        best = max(best, 2 * COPIED_BYTES / (start.elapsed_time(end) / 1000))
    del source, target
    torch.cuda.empty_cache()  # the servers need it
    return best


def measure(model: BenchModel, args: argparse.Namespace) -> Rates:
    """Tokens/s of each server, one after the other: two copies of the model need not fit."""
    rates: Rates = defaultdict(list)
    for name in (OURS, PEER):
        with contextlib.ExitStack() as stack:
            contender = _make(name, model, args)
            print(f"Starting {name} ...", flush=True)
            stack.enter_context(contender.server)
            for repeat in range(args.repeats):
                for streams in args.streams:
                    result = run_load(
                        contender.server,
                        model=contender.model,
                        key=contender.key,
                        words=model,
                        fields=contender.fields,
                        streams=streams,
                        max_tokens=8 if args.quick else MAX_TOKENS,
                        min_s=0 if args.quick else args.min_s,
                        seed=repeat * 1000 + streams,
                    )
                    rates[name, streams].append(result["tokens_per_s"])
                    print(f"{name}, {streams} streams: {result['tokens_per_s']:,.0f} tokens/s", flush=True)
    return rates


def table(rates: Rates, all_streams: Sequence[int], bytes_per_s: float, weights_bytes: int) -> list[str]:
    """A row for each number of streams: the limit, and each server's part of it."""
    lines = [f"| streams | limit | {OURS} | of the limit | {PEER} | of the limit |", "|---:|---:|---:|---:|---:|---:|"]
    for streams in all_streams:
        limit = streams * bytes_per_s / weights_bytes
        cells = []
        for name in (OURS, PEER):
            rate = median(rates.get((name, streams), []))
            cells += [shown(rate), shown(None if rate is None else rate / limit)]
        lines.append(f"| {streams} | {shown(limit)} | {' | '.join(cells)} |")
    return lines


def _make(name: str, model: BenchModel, args: argparse.Namespace) -> Contender:
    if name == OURS:
        return make_ours(model, args.work, max_slots=str(max(args.streams)), compile=str(args.compile))
    return make_contender(name, model, args.work)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--model", choices=MODELS, default="7b")
    parser.add_argument("--streams", type=numbers, default="1,64", help="default: 1,64")
    parser.add_argument("--compile", action="store_true", help="let this server compile its decoding step")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
