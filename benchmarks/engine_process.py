"""Measures what a process of its own costs a model, and what it spares it while a cell is busy.

The same model is served twice by programs that are alike but for ``process=True``, in turns: with an idle main thread,
and with one that computes in pure Python, as a notebook's cell may. Tokens a second and times to the first token come
from a load generator in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
import signal
import sys
from collections import defaultdict
from collections.abc import Sequence

from benchmarks.figures import median, ratio, shown
from benchmarks.machine import describe_machine, machine_line
from benchmarks.measuring import ROOT, command_line, make_parser, numbers, run_load, write_results
from benchmarks.models import NAMES as MODELS
from benchmarks.models import BenchModel, make_model
from benchmarks.processes import ServerProcess, free_port, stop_on_sigterm
from benchmarks.steadiness import Steadiness

MAX_TOKENS = 64
PROMPT_WORDS = 16
KINDS = {"in the kernel": (), "in a process of its own": ("--process",)}
CELLS = ("idle", "busy")
Figures = dict[tuple[str, str, int], list[dict[str, float]]]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    args = _parse(argv)
    stop_on_sigterm()
    steadiness = Steadiness()
    lines = ["# A model in a process of its own", "", f"Made by `{command_line('engine_process', argv)}`.", ""]
    lines += [machine_line(describe_machine()), ""]
    data = {}
    for name in args.models:
        model = make_model(name, args.work)
        figures = measure(model, args, steadiness)
        lines += [f"## {model.name}", "", *table(figures, args.streams), ""]
        data[name] = [{"who": key[0], "cell": key[1], "streams": key[2], "samples": s} for key, s in figures.items()]
    lines.append(steadiness.sentence())
    write_results(args.results, "engine_process", "\n".join(lines), data)
    return 0


def measure(model: BenchModel, args: argparse.Namespace, steadiness: Steadiness) -> Figures:
    """Results of the load generator, by who served, whether a cell was busy, and streams."""
    figures: Figures = defaultdict(list)
    key = secrets.token_urlsafe(32)
    with contextlib.ExitStack() as stack:
        servers = {kind: stack.enter_context(_server(kind, model, key, args)) for kind in KINDS}
        for repeat in range(args.repeats):
            for streams in args.streams:
                for cell in CELLS:
                    for kind, server in servers.items():
                        steadiness.probe()
                        # One signal for each time it goes on: of several that wait, the kernel chooses the order
                        server.send_signal(signal.SIGUSR1 if cell == "busy" else signal.SIGUSR2)
                        result = run_load(
                            server,
                            model=model.folder.name,
                            key=key,
                            words=model,
                            fields={"ignore_eos": True, "stream_options": {"include_usage": True}},
                            streams=streams,
                            max_tokens=8 if args.quick else MAX_TOKENS,
                            prompt_words=PROMPT_WORDS,
                            min_s=0 if args.quick else args.min_s,
                            seed=repeat * 1000 + streams,
                        )
                        figures[kind, cell, streams].append(result)
                        print(
                            f"{model.name}, {kind}, {cell} cell, {streams} streams, repeat {repeat + 1}: "
                            f"{result['tokens_per_s']:,.0f} tokens/s",
                            flush=True,
                        )
    return figures


def table(figures: Figures, all_streams: Sequence[int]) -> list[str]:
    """Medians, and what the process and the busy cell make of them."""
    lines = [
        "| Streams | Cell | Model | Tokens/s | of the same beside an idle cell | of the kernel's | TTFT p50 |",
        "|---:|---|---|---:|---:|---:|---:|",
    ]
    for streams in all_streams:
        for cell in CELLS:
            for kind in KINDS:
                rate, idle, inside = (
                    median([each["tokens_per_s"] for each in figures[key, of, streams]])
                    for key, of in ((kind, cell), (kind, "idle"), ("in the kernel", cell))
                )
                ttft = median([each["ttft_p50_s"] for each in figures[kind, cell, streams]])
                lines.append(
                    f"| {streams} | {cell} | {kind} | {shown(rate)} | {_percent(rate, idle)} | "
                    f"{_percent(rate, inside)} | {shown(None if ttft is None else ttft * 1000, ' ms')} |"
                )
    return lines


def _percent(value: float | None, other: float | None) -> str:
    share = ratio(value, other)
    return "-" if share is None else f"{share:.0%}"


def _server(kind: str, model: BenchModel, key: str, args: argparse.Namespace) -> ServerProcess:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.busy_kernel", str(model.folder), "--port", str(port)]
    command += ["--dtype", model.dtype, *KINDS[kind]]
    home = args.work / f"home-{port}"
    env = {"LLMAPI_KIT_API_KEY": key, "LLMAPI_KIT_HOME": str(home), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    log = args.work / "logs" / f"engine_process-{port}.log"
    return ServerProcess(kind, command, url=f"http://127.0.0.1:{port}", ready_path="/readyz", log=log, env=env, key=key)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["tiny"])
    parser.add_argument("--streams", type=numbers, default="8,32", help="default: 8,32")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
