"""Measures what a process of its own costs a model, and what it spares it while a cell is busy.

The same model is served twice by programs that are alike but for ``process=True``, in turns: with an idle main thread,
and with one that computes in pure Python, as a notebook's cell may. Such a cell takes two things, the GIL and a core;
so there is a third turn, in which another program takes a core and nothing else. The model `timed` computes nothing,
as one on a GPU; then nobody misses the core. Tokens a second and times to the first token come from a load generator
in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from benchmarks.busy_kernel import CELLS, TIMED
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
ELSEWHERE = "idle, beside a busy program"
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
        figures = measure(name, args, steadiness)
        lines += [f"## {name}", "", *table(figures, args, _kinds(name)), ""]
        data[name] = [{"who": key[0], "cell": key[1], "streams": key[2], "samples": s} for key, s in figures.items()]
    lines.append(steadiness.sentence())
    write_results(args.results, "engine_process", "\n".join(lines), data)
    return 0


def measure(name: str, args: argparse.Namespace, steadiness: Steadiness) -> Figures:
    """Results of the load generator, by who served, what a cell did, and streams."""
    model = make_model("tiny" if name == TIMED else name, args.work)
    figures: Figures = defaultdict(list)
    key = secrets.token_urlsafe(32)
    cell_file = args.work / "cell"
    with contextlib.ExitStack() as stack:
        servers = {kind: stack.enter_context(_server(kind, name, model, key, args)) for kind in _kinds(name)}
        for repeat in range(args.repeats):
            for streams in args.streams:
                for cell in args.cells:
                    for kind, server in servers.items():
                        steadiness.probe()
                        cell_file.write_text("idle" if cell == ELSEWHERE else cell)
                        server.send_signal(signal.SIGUSR1)
                        with _busy_program() if cell == ELSEWHERE else contextlib.nullcontext():
                            result = run_load(
                                server,
                                model=TIMED if name == TIMED else model.folder.name,
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
                            f"{name}, {kind}, {cell} cell, {streams} streams, repeat {repeat + 1}: "
                            f"{result['tokens_per_s']:,.0f} tokens/s",
                            flush=True,
                        )
    return figures


def table(figures: Figures, args: argparse.Namespace, kinds: Collection[str]) -> list[str]:
    """Medians, and what the process and the cell make of them: medians of what was measured in the same turn."""
    lines = [
        "| Streams | Cell | Model | Tokens/s | of the same beside an idle cell | beside a busy program "
        "| of the kernel's | TTFT p50 |",
        "|---:|---|---|---:|---:|---:|---:|---:|",
    ]
    for streams in args.streams:
        for cell in args.cells:
            for kind in kinds:
                rates, idle, elsewhere, inside = (
                    [each["tokens_per_s"] for each in figures.get(key, [])]
                    for key in (
                        (kind, cell, streams),
                        (kind, "idle", streams),
                        (kind, ELSEWHERE, streams),
                        ("in the kernel", cell, streams),
                    )
                )
                ttft = median([each["ttft_p50_s"] for each in figures[kind, cell, streams]])
                shares = " | ".join(_percent(rates, others) for others in (idle, elsewhere, inside))
                lines.append(
                    f"| {streams} | {cell} | {kind} | {shown(median(rates))} | {shares} | "
                    f"{shown(None if ttft is None else ttft * 1000, ' ms')} |"
                )
    return lines


def _percent(values: Sequence[float], others: Sequence[float]) -> str:
    share = median([ratio(value, other) for value, other in zip(values, others, strict=False)])
    return "-" if share is None else f"{share:.0%}"


def _kinds(model: str) -> Collection[str]:
    """The timed engine has no thread of its own, as a model in the kernel has."""
    return ["in a process of its own"] if model == TIMED else KINDS


@contextlib.contextmanager
def _busy_program() -> Iterator[None]:
    """A program that does what a busy cell does, and shares nothing with the server but the machine's cores."""
    program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        program.kill()
        program.wait()


def _server(kind: str, name: str, model: BenchModel, key: str, args: argparse.Namespace) -> ServerProcess:
    port = free_port()
    folder = TIMED if name == TIMED else str(model.folder)
    command = [sys.executable, "-m", "benchmarks.busy_kernel", folder, "--port", str(port)]
    command += ["--dtype", model.dtype, "--cell", str(args.work / "cell"), *KINDS[kind]]
    home = args.work / f"home-{port}"
    env = {"LLMAPI_KIT_API_KEY": key, "LLMAPI_KIT_HOME": str(home), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    log = args.work / "logs" / f"engine_process-{port}.log"
    return ServerProcess(kind, command, url=f"http://127.0.0.1:{port}", ready_path="/readyz", log=log, env=env, key=key)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=(*MODELS, TIMED), default=["tiny", TIMED])
    parser.add_argument("--cells", nargs="+", choices=(*CELLS, ELSEWHERE), default=("idle", "busy", ELSEWHERE))
    parser.add_argument("--streams", type=numbers, default="8,32", help="default: 8,32")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
