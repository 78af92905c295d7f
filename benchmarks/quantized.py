"""Measures the step in C with weights in several formats: tokens/s, GB/s of weights, and memory; and long prompts.

Without a server: what differs between formats is the step. All formats are loaded at once and take turns, repeat for
repeat, so that whatever else runs on the machine slows all of them. With `--long`, a prompt of so many tokens is read
with keys and values in each format.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.figures import median, shown
from benchmarks.machine import describe_machine, machine_line
from benchmarks.measuring import command_line, make_parser, numbers, write_results
from benchmarks.memory_bandwidth import read_bandwidth
from benchmarks.models import NAMES as MODELS
from benchmarks.models import BenchModel, make_model
from llmapi_kit.checkpoints.decoder_config import DecoderConfig, read_decoder_config
from llmapi_kit.checkpoints.decoder_weights import DecoderWeights, read_decoder_weights
from llmapi_kit.checkpoints.integer_weights import ROUNDED
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.native.runner import NativeRunner

FORMATS = ("as stored", *ROUNDED)
KV_FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
MAX_LENGTH = 256
WARM_UP = 3  # tokens
CHUNK = 512  # tokens of a long prompt that are read at once


@dataclass(slots=True)
class Loaded:
    """A runner in some format, and what its weights take."""

    runner: NativeRunner
    weights_bytes: int
    load_s: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    args = _parse(argv)
    lines = ["# Quantized weights", "", f"Made by `{command_line('quantized', argv)}`.", ""]
    lines += [machine_line(describe_machine()), ""]
    if args.quick:
        lines += ["**A quick run: it shows that everything works and measures nothing.**", ""]
    data: dict[str, Any] = {}
    for name in args.models:
        model = make_model(name, args.work)
        lines += [f"## {model.label}", ""]
        if args.long:
            data[f"{model.label}, long"] = rows = measure_long(model, args)
            lines += [f"A prompt of {args.long:,} tokens, by the format of keys and values", ""]
            lines += ["| kv_cache_dtype | prompt s | tokens/s | token after it ms | KV memory MiB |"]
            lines += ["|---|---:|---:|---:|---:|", *rows, ""]
        else:
            data[model.label] = rows = measure(model, args)
            bandwidth = read_bandwidth(1 << 24) if args.quick else read_bandwidth()
            lines += [f"Medians over {args.repeats} repeats. Memory is read at {bandwidth / 1e9:.1f} GB/s.", ""]
            lines += ["| weights | MiB | of stored | load s | streams | tokens/s | GB/s of weights |"]
            lines += ["|---|---:|---:|---:|---:|---:|---:|", *rows, ""]
    write_results(args.results, "quantized", "\n".join(lines), data)
    return 0


def measure(model: BenchModel, args: argparse.Namespace) -> list[str]:
    """Rows of the table of a model."""
    num_slots = max(args.streams)
    loaded = {name: _load(model, name, num_slots) for name in FORMATS}
    seconds: dict[tuple[str, int], list[float]] = defaultdict(list)
    for _ in range(args.repeats):
        for streams in args.streams:
            for name, each in loaded.items():
                seconds[name, streams].append(_decode(each.runner, streams, args.num_tokens))
    stored = loaded[FORMATS[0]].weights_bytes
    rows = []
    for (name, streams), times in seconds.items():
        each, took = loaded[name], median(times)
        rows.append(
            f"| {name} | {each.weights_bytes / 2**20:,.0f} | {each.weights_bytes / stored:.2f} | {each.load_s:.1f} | "
            f"{streams} | {shown(streams / took)} | {each.weights_bytes / took / 1e9:.1f} |"
        )
    for each in loaded.values():
        each.runner.close()
    return sorted(rows, key=lambda row: FORMATS.index(row.split(" | ")[0].removeprefix("| ")))


def measure_long(model: BenchModel, args: argparse.Namespace) -> list[str]:
    """Rows on a long prompt."""
    rows = []
    for name, kv_dtype in KV_FORMATS.items():
        weights = _weights(model)
        runner = NativeRunner(weights, num_slots=1, max_length=args.long + 8, dtype=torch.float32, kv_dtype=kv_dtype)
        runner.start()
        ids = [11 + i % 1000 for i in range(args.long)]
        began = time.perf_counter()
        for at in range(0, args.long, CHUNK):
            runner.step([StepItem(0, at, ids[at : at + CHUNK], at + CHUNK >= args.long)])
        prompt_s = time.perf_counter() - began
        began = time.perf_counter()
        for i in range(4):
            runner.step([StepItem(0, args.long + i, [7], True)])
        token_s = (time.perf_counter() - began) / 4
        rate = shown(args.long / prompt_s)
        rows.append(f"| {name} | {prompt_s:.1f} | {rate} | {1000 * token_s:.1f} | {runner.kv_bytes / 2**20:,.0f} |")
        print(rows[-1], flush=True)
        runner.close()
    return rows


def _weights(model: BenchModel) -> DecoderWeights:
    config: DecoderConfig | None = read_decoder_config(model.folder)
    weights = read_decoder_weights(model.folder, config) if config is not None else None
    if weights is None:
        raise ValueError(f"The step in C does not know the model {model.name}.")
    return weights


def _load(model: BenchModel, name: str, num_slots: int) -> Loaded:
    weights = _weights(model)
    if name in ROUNDED:
        weights.round_to(ROUNDED[name])
    num_bytes, began = weights.num_bytes, time.perf_counter()
    runner = NativeRunner(weights, num_slots=num_slots, max_length=MAX_LENGTH, dtype=torch.float32)
    print(f"{model.name} {name}: loaded", flush=True)
    return Loaded(runner, num_bytes, time.perf_counter() - began)


def _decode(runner: NativeRunner, streams: int, num_tokens: int) -> float:
    """Seconds of a step: the median of several."""
    runner.start()
    times = []
    for at in range(WARM_UP + num_tokens):
        began = time.perf_counter()
        runner.step([StepItem(slot, at, [11 + slot], True) for slot in range(streams)])
        times.append(time.perf_counter() - began)
    return median(times[WARM_UP:])


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["qwen"])
    parser.add_argument("--streams", type=numbers, default="1,8,32", help="default: 1,8,32")
    parser.add_argument("--num-tokens", type=int, default=24, help="of each stream in a repeat; default: 24")
    parser.add_argument("--long", type=int, default=0, help="tokens of a prompt, in place of streams, such as 32768")
    args = parser.parse_args(argv)
    if args.quick:
        args.num_tokens = 2
    return args


if __name__ == "__main__":
    sys.exit(main())
