"""Measures a long prompt alone: the time to its first token, tokens/s after it, and what it takes of memory.

Through the kit's engine, without HTTP: the tokenizer, the prefix cache, the scheduler and the step. Each way of
computing has a process of its own, so that memory can be told apart, and they take turns, repeat for repeat. The CPU
time of the prompt is told beside the wall clock's, as other programs slow the clock down and that less.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.figures import median, shown
from benchmarks.machine import describe_machine, machine_line
from benchmarks.measuring import ROOT, command_line, make_parser, numbers, write_results
from benchmarks.models import NAMES as MODELS
from benchmarks.models import BenchModel, make_model

# By name, what `kit.load` is told
WAYS: dict[str, dict[str, Any]] = {
    "C, keys and values in float32": {},
    "C, in bfloat16": {"kv_cache_dtype": "bfloat16"},
    "C, in int8": {"kv_cache_dtype": "int8"},
    "torch": {"native": False},
}
NEW_TOKENS = 32
MEASURES = ("ttft_s", "prompt_cpu_s", "tokens_per_s", "prompt_bytes")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    args = _parse(argv)
    model = make_model(args.model, args.work)
    samples: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as home:
        folder = _with_context(model, max(args.tokens) + 4 * NEW_TOKENS, Path(home))
        for _ in range(args.repeats):
            for num_tokens in args.tokens:
                for way in args.ways:
                    samples.append({"way": way, **_run(folder, model.words, num_tokens, way)})
                    print(json.dumps(samples[-1]), flush=True)
    write_results(args.results, "long_context", _report(model, args, argv, samples), samples)
    return 0


def _with_context(model: BenchModel, length: int, home: Path) -> Path:
    """The model's folder, with a configuration that allows prompts of this length."""
    for file in model.folder.iterdir():
        if file.suffix != ".gguf":
            (home / file.name).symlink_to(file)
    config = json.loads((model.folder / "config.json").read_text())
    (home / "config.json").unlink()
    (home / "config.json").write_text(json.dumps({**config, "max_position_embeddings": length}))
    return home


def _run(folder: Path, words: Path, num_tokens: int, way: str) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.long_context",
        "--measure",
        str(folder),
        str(words),
        str(num_tokens),
        way,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(folder: str, words: str, num_tokens: int, way: str) -> dict[str, Any]:
    """Load a model, and have it answer a long prompt."""
    import llmapi_kit as kit

    known = json.loads(Path(words).read_text())
    model = kit.load(folder, max_slots=1, context_length=num_tokens + 2 * NEW_TOKENS, **WAYS[way])
    model.ask("".join(known[:64]), max_tokens=2)
    text = "".join(known[(7 * i) % len(known)] for i in range(num_tokens))
    process, before = psutil.Process(), model.stats()
    held, cpu_s, began = process.memory_full_info().uss, sum(os.times()[:2]), time.perf_counter()
    pieces = iter(model.stream([{"role": "user", "content": text[: num_tokens - NEW_TOKENS]}], max_tokens=NEW_TOKENS))
    next(pieces)
    ttft_s, prompt_cpu_s = time.perf_counter() - began, sum(os.times()[:2]) - cpu_s
    for _ in pieces:
        pass
    after_s = time.perf_counter() - began - ttft_s
    stats = model.stats()
    return {
        "num_tokens": stats.num_prompt_tokens - before.num_prompt_tokens,
        "ttft_s": ttft_s,
        "prompt_cpu_s": prompt_cpu_s,
        "tokens_per_s": (stats.num_completion_tokens - before.num_completion_tokens - 1) / after_s,
        "prompt_bytes": process.memory_full_info().uss - held,
    }


def _report(
    model: BenchModel, args: argparse.Namespace, argv: Sequence[str] | None, samples: Sequence[dict[str, Any]]
) -> str:
    lines = ["# Long prompts", "", f"Made by `{command_line('long_context', argv)}`.", ""]
    lines += [machine_line(describe_machine()), "", f"{model.label}; medians over {args.repeats} repeats.", ""]
    lines += ["| prompt tokens | way | first token s | prompt tokens/s | CPU s | tokens/s after it | memory MiB |"]
    lines += ["|---:|---|---:|---:|---:|---:|---:|"]
    for wanted in args.tokens:
        for way in args.ways:
            of_way = [each for each in samples if each["way"] == way and abs(each["num_tokens"] - wanted) < wanted / 4]
            middle = {name: median([each[name] for each in of_way]) or 0.0 for name in MEASURES}
            num_tokens = of_way[0]["num_tokens"]
            rate, memory = shown(num_tokens / middle["ttft_s"]), middle["prompt_bytes"] / 2**20
            lines.append(
                f"| {num_tokens:,} | {way} | {middle['ttft_s']:.1f} | {rate} | {middle['prompt_cpu_s']:.1f} | "
                f"{shown(middle['tokens_per_s'])} | {memory:,.0f} |"
            )
    return "\n".join(lines)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--model", choices=MODELS, default="qwen")
    parser.add_argument("--tokens", type=numbers, default="8192,32768", help="of a prompt; default: 8192,32768")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args(argv)
    if args.quick:
        args.tokens = [256]
    return args


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])))
    else:
        sys.exit(main())
