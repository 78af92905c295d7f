"""Measures decoding on a GPU against what the card's memory allows, and against another server.

A 7 B parameter model in bfloat16 with random weights, 1 and 64 streams over HTTP: this server and `transformers serve
--continuous-batching`, in turns. Every step reads all weights once, so streams times the measured memory bandwidth
over their size is the most tokens/s that there can be. The bandwidth is measured before anything is loaded.

Needs a CUDA card with 24 GB of memory or more, 16 GB of disk and some minutes to make the model. With ``--short``, the
engine without HTTP beside a bare loop over transformers' forward pass, on a model that is made on the card: a minute,
no disk, and the shape `qwen` where 7 B don't fit. It has not been run on a GPU yet.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
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
NUM_COPIES, COPIES_AT_ONCE = 6, 4  # several, as starting one takes time
SHORT_TOKENS = 96
# Parameters of the shape that `--short` prefers, and the one that it takes where that does not fit
SHORT_MODEL, SHORT_PARAMETERS, SMALL_MODEL = "7b", 7e9, "qwen"
Rates = dict[tuple[str, int], list[float]]  # (contender, streams) to tokens/s of the repeats


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    args = _parse(argv)
    import torch

    device = torch.device(os.environ.get("LLMAPI_KIT_GPU_CHECK_DEVICE", "cuda:0"))
    if not torch.cuda.is_available() and not (args.short and device.type == "cpu"):
        sys.exit(NO_GPU)
    stop_on_sigterm()
    if args.short:
        print(json.dumps(measure_short(torch, device, args)), flush=True)
        return 0
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


def measure_short(torch: Any, device: Any, args: argparse.Namespace) -> dict[str, Any]:
    """The engine and a bare loop in this process, as parts of what the memory's bandwidth allows."""
    from benchmarks.gpu_in_process import fits, measure

    if device.type == "cpu":
        name, num_tokens, copied = "tiny", 16, COPIED_BYTES // 16
    else:
        name = SHORT_MODEL if fits(SHORT_PARAMETERS, device) else SMALL_MODEL
        num_tokens, copied = 8 if args.quick else SHORT_TOKENS, COPIED_BYTES
    bandwidth = measure_bandwidth(torch, device, copied)
    print(f"{bandwidth / 1e9:,.0f} GB/s; {name}", flush=True)
    measured = measure(name, device, args.streams, num_tokens)
    for rate in measured["rates"]:
        rate["limit"] = rate["streams"] * bandwidth / measured["weights_bytes"]
        rate["engine_of_limit"] = rate["engine"] / rate["limit"]
        rate["engine_to_bare_loop"] = rate["engine"] / rate["bare_loop"]
        rate.update({key: float(f"{value:.4g}") for key, value in rate.items() if isinstance(value, float)})
    return {"model": name, "gb_per_s": round(bandwidth / 1e9, 1), **measured}


def measure_bandwidth(torch: Any, device: Any = "cuda", num_bytes: int = COPIED_BYTES) -> float:
    """Bytes/s that a device reads and writes when it copies its own memory; the best of some copies."""
    device = torch.device(device)
    is_cuda = device.type == "cuda"
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(NUM_COPIES):
        started = time.perf_counter()
        for _ in range(COPIES_AT_ONCE):
            target.copy_(source)
        if is_cuda:
            torch.cuda.synchronize(device)
        best = max(best, 2 * COPIES_AT_ONCE * num_bytes / (time.perf_counter() - started))
    del source, target
    if is_cuda:
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
    parser.add_argument("--short", action="store_true", help="in this process, without files and servers; prints JSON")
    parser.add_argument("--compile", action="store_true", help="let this server compile its decoding step")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
