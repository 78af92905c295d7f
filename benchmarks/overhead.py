"""Measures what the server itself costs.

First the kit around an engine without a model, in chunks/s, against Starlette sending fixed bytes on the same uvicorn.
Then the engine over HTTP, in tokens/s, against a bare transformers forward loop over the same weights at the same
batch; of a GGUF file, against llama.cpp's own `llama_decode` in a loop. Each in a process of its own, in turns, the
others held still. Of a single stream it also says how many bytes/s of weights its steps read, beside what this
machine's memory gives in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.contenders import Contender, make_ours
from benchmarks.figures import median, ratio, shown
from benchmarks.machine import describe_machine, machine_line
from benchmarks.measuring import ROOT, command_line, make_parser, numbers, run_load, write_results
from benchmarks.memory_bandwidth import read_bandwidth
from benchmarks.models import NAMES as MODELS
from benchmarks.models import BenchModel, make_model
from benchmarks.processes import ServerProcess, free_port, stop_on_sigterm
from benchmarks.steadiness import Steadiness

KINDS = ("mock", "fixed")
NUM_CHUNKS = 2000  # of an answer
CONNECTIONS = (1, 32)
MAX_TOKENS = 128
PROMPT_WORDS = 16
Rates = dict[tuple[str, int], list[float]]  # (who, how many at once) to the repeats' rates


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    args = _parse(argv)
    stop_on_sigterm()
    steadiness = Steadiness()
    chunks = measure_chunks(args, steadiness) if "chunks" in args.parts else {}
    engines = {}
    for model in (make_model(m, args.work) for m in args.models):
        if "engine" in args.parts and not model.is_quantised:
            engines[model.label] = measure_engine(model, args, steadiness)
        if "gguf" in args.parts:
            engines[f"{model.label}, GGUF"] = measure_engine(model, args, steadiness, is_gguf=True)
    machine = describe_machine()
    lines = ["# Overhead", "", f"Made by `{command_line('overhead', argv)}`.", "", machine_line(machine), ""]
    if args.quick:
        lines += ["**A quick run: it shows that everything works and measures nothing.**", ""]
    lines += [steadiness.sentence(), "", f"Medians over {args.repeats} repeats; in brackets lowest and highest.", ""]
    if chunks:
        lines += ["## The kit around a mock engine, against Starlette sending fixed bytes, chunks/s", ""]
        lines += _table(chunks, "mock", "fixed", "connections", "kit", "Starlette")
    for label, rates in engines.items():
        lines += [f"## The engine over HTTP against a bare forward loop, {label}, tokens/s", ""]
        lines += _table(rates, "engine", "bare", "streams", "kit over HTTP", "bare loop")
        lines += _bandwidth(rates)
    data = {
        "machine": machine,
        "steadiness": steadiness.sentence(),
        "chunks": _listed(chunks),
        "engine": {k: _listed(v) for k, v in engines.items()},
    }
    write_results(args.results, "overhead", "\n".join(lines), data)
    return 0


def measure_chunks(args: argparse.Namespace, steadiness: Steadiness) -> Rates:
    """Chunks/s of the mock engine and of fixed bytes."""
    rates: Rates = defaultdict(list)
    num_chunks = 50 if args.quick else NUM_CHUNKS
    key = secrets.token_urlsafe(32)
    with contextlib.ExitStack() as stack:
        servers = {kind: stack.enter_context(_stream_server(kind, num_chunks, key, args)) for kind in KINDS}
        for server in servers.values():
            server.hold()
        for repeat in range(args.repeats):
            for connections in CONNECTIONS:
                for kind, server in servers.items():
                    steadiness.probe()
                    min_s = 0 if args.quick else args.min_s
                    result = run_load(
                        server,
                        model="mock",
                        key=key,
                        streams=connections,
                        max_tokens=num_chunks,
                        min_s=min_s,
                        seed=repeat,
                    )
                    rates[kind, connections].append(result["num_pieces"] / result["wall_s"])
                    _say(f"{kind}, {connections} connections", repeat, rates[kind, connections][-1], "chunks/s")
    return rates


def measure_engine(
    model: BenchModel, args: argparse.Namespace, steadiness: Steadiness, *, is_gguf: bool = False
) -> Rates:
    """Tokens/s of the engine over HTTP and of the bare loop."""
    rates: Rates = defaultdict(list)
    max_tokens = 8 if args.quick else MAX_TOKENS
    ours = make_ours(model, args.work, is_gguf=True, native="false") if is_gguf else make_ours(model, args.work)
    bare_loop = _bare_llama_decode if is_gguf else _bare
    with ours.server:
        ours.server.hold()
        for repeat in range(args.repeats):
            for streams in args.streams:
                steadiness.probe()
                result = _over_http(ours, model, streams, max_tokens, repeat, args)
                rates["engine", streams].append(result["tokens_per_s"])
                _say(f"{model.name}: engine, {streams} streams", repeat, result["tokens_per_s"], "tokens/s")
                steadiness.probe()
                bare = bare_loop(model, streams, result["num_prompt_tokens"], max_tokens, args)
                rates["bare", streams].append(bare["tokens_per_s"])
                if streams == 1:
                    files = [model.gguf] if is_gguf else model.folder.glob("*.safetensors")
                    weights = sum(file.stat().st_size for file in files)
                    rates["weights", 1].append(weights * result["tokens_per_s"])
                    rates["memory", 1].append(read_bandwidth(1 << 24) if args.quick else read_bandwidth())
                _say(f"{model.name}: bare loop, batch {streams}", repeat, bare["tokens_per_s"], "tokens/s")
    return rates


def _over_http(
    ours: Contender, model: BenchModel, streams: int, max_tokens: int, repeat: int, args: argparse.Namespace
) -> dict[str, Any]:
    return run_load(
        ours.server,
        model=ours.model,
        key=ours.key,
        words=model,
        fields=ours.fields,
        streams=streams,
        max_tokens=max_tokens,
        prompt_words=PROMPT_WORDS,
        min_s=0 if args.quick else args.min_s,
        seed=repeat * 1000 + streams,
    )


def _bare(
    model: BenchModel, batch: int, num_prompt_tokens: int, max_tokens: int, args: argparse.Namespace
) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.bare_loop", str(model.folder), "--dtype", model.dtype]
    command += ["--batch", str(batch), "--prompt-tokens", str(num_prompt_tokens), "--max-tokens", str(max_tokens)]
    return _run_bare(command, args)


def _bare_llama_decode(
    model: BenchModel, batch: int, num_prompt_tokens: int, max_tokens: int, args: argparse.Namespace
) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.bare_llama_decode", str(model.gguf)]
    command += ["--batch", str(batch), "--prompt-tokens", str(num_prompt_tokens), "--max-tokens", str(max_tokens)]
    return _run_bare(command, args)


def _run_bare(command: list[str], args: argparse.Namespace) -> dict[str, Any]:
    command += ["--min-s", str(0 if args.quick else args.min_s)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT, env=env)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _stream_server(kind: str, num_chunks: int, key: str, args: argparse.Namespace) -> ServerProcess:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.stream_server", kind, "--port", str(port)]
    command += ["--num-tokens", str(num_chunks)]
    env = {"LLMAPI_KIT_API_KEY": key, "LLMAPI_KIT_HOME": str(args.work / "home"), "PYTHONPATH": str(ROOT)}
    log = args.work / "logs" / f"{kind}-{port}.log"
    url = f"http://127.0.0.1:{port}"
    return ServerProcess(kind, command, url=url, ready_path="/readyz", log=log, env=env, key=key)


def _table(rates: Rates, ours: str, other: str, how_many: str, *columns: str) -> list[str]:
    lines = [f"| {how_many} | {' | '.join(columns)} | ratio |", "|---:|---:|---:|---:|"]
    for number in dict.fromkeys(number for who, number in rates if who == ours):
        values = median(rates[ours, number]), median(rates[other, number])
        lines.append(
            f"| {number} | {_range(rates[ours, number])} | {_range(rates[other, number])} | {shown(ratio(*values))} |"
        )
    return [*lines, ""]


def _bandwidth(rates: Rates) -> list[str]:
    """A sentence on what a single stream's steps read, where one was measured."""
    if ("weights", 1) not in rates:
        return []
    steps, memory = ([rate / 1e9 for rate in rates[who, 1]] for who in ("weights", "memory"))
    return [
        f"One stream reads {_range(steps)} GB/s of weights; all cores read memory at {_range(memory)} GB/s, so that is "
        f"{shown(ratio(median(steps), median(memory)))} of it.",
        "",
    ]


def _range(rates: Sequence[float]) -> str:
    return f"{shown(median(rates))} ({shown(min(rates))} to {shown(max(rates))})"


def _listed(rates: Rates) -> list[dict[str, Any]]:
    return [{"who": who, "at_once": number, "per_s": values} for (who, number), values in rates.items()]


def _say(what: str, repeat: int, rate: float, unit: str) -> None:
    print(f"{what}, repeat {repeat + 1}: {rate:,.0f} {unit}", flush=True)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=("chunks", "engine", "gguf"), default=["chunks", "engine"])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["tiny"])
    parser.add_argument("--streams", type=numbers, default="1,8,32", help="of the engine; default: 1,8,32")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
