"""Measures this server beside others: tokens/s, time to first token, inter-token latency, memory.

Every contender serves the same weights from a process and an environment of its own. They are all started first; then
each measurement runs on one while the others are held still, contender after contender before the next repeat, so that
whatever else the machine does hits all alike. `make bench` runs this; the report goes to ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from benchmarks.contenders import GGUF_NAMES, NAMES, Contender, make_contender
from benchmarks.environments import EnvironmentFailedError
from benchmarks.machine import describe_machine
from benchmarks.measuring import LoadFailedError, command_line, make_parser, numbers, run_load, write_results
from benchmarks.models import NAMES as MODELS
from benchmarks.models import BenchModel, make_model
from benchmarks.processes import ServerFailedError, stop_on_sigterm
from benchmarks.serving_plot import plot_serving
from benchmarks.serving_report import Failure, Run, Sample, to_markdown
from benchmarks.steadiness import Steadiness
from benchmarks.workloads import WORKLOADS, Workload, workload_for


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, report and plot; 1 when something failed."""
    args = _parse(argv)
    stop_on_sigterm()
    run = Run(describe_machine(), time.strftime("%Y-%m-%d %H:%M"), command_line("serving", argv), is_quick=args.quick)
    steadiness = Steadiness()
    try:
        for name in args.models:
            measure_model(run, make_model(name, args.work), args, steadiness)
    finally:  # what was measured before Ctrl-C is worth keeping
        run.steadiness = steadiness.sentence()
        if run.samples or run.failures:
            write_results(args.results, "serving", to_markdown(run), asdict(run))
            for path in plot_serving(run, args.results):
                print(f"Drawn: {path}")
    return 1 if run.failures else 0


def measure_model(run: Run, model: BenchModel, args: argparse.Namespace, steadiness: Steadiness) -> None:
    """Start all contenders on a model, measure them in turns, stop them."""
    run.models[model.name] = model.label
    workloads = [workload_for(each, model.name, is_quick=args.quick) for each in args.workloads]
    with contextlib.ExitStack() as servers:
        contenders = []
        for name in args.contenders:
            if model.is_quantised and name not in GGUF_NAMES:
                continue
            contender = _start(run, name, model, args, servers)
            if contender is not None:
                contenders.append(contender)
        for repeat in range(args.repeats):
            for workload in workloads:
                for streams in args.streams:
                    for contender in [each for each in contenders if each.server.is_alive]:
                        steadiness.probe()
                        _measure(run, contender, model, workload, streams, repeat, args)
        for contender in contenders:
            run.peak_rss_bytes[f"{model.name} {contender.name}"] = contender.server.peak_rss_bytes


def _start(
    run: Run, name: str, model: BenchModel, args: argparse.Namespace, servers: contextlib.ExitStack
) -> Contender | None:
    """A server, ready and held still; None when it failed, which is noted."""
    print(f"[{model.name}] starting {name} ...", flush=True)
    started = time.monotonic()
    try:
        contender = make_contender(name, model, args.work)
        servers.enter_context(contender.server)
    except (EnvironmentFailedError, ServerFailedError) as exc:
        run.failures.append(Failure(model.name, name, "start", str(exc)))
        print(f"  FAILED: {exc}", flush=True)
        return None
    contender.server.hold()
    print(f"  ready after {time.monotonic() - started:.1f} s", flush=True)
    return contender


def _measure(
    run: Run,
    contender: Contender,
    model: BenchModel,
    workload: Workload,
    streams: int,
    repeat: int,
    args: argparse.Namespace,
) -> None:
    """One measurement, or the note that it failed."""
    where = f"{workload.name}, {streams} streams, repeat {repeat + 1}"
    try:
        result = run_load(
            contender.server,
            model=contender.model,
            key=contender.key,
            words=model,
            fields=contender.fields,
            streams=streams,
            max_tokens=workload.max_tokens,
            prompt_words=workload.prompt_words,
            shared_words=workload.shared_words,
            min_s=0 if args.quick else args.min_s,
            seed=repeat * 1000 + streams,
        )
    except LoadFailedError as exc:
        run.failures.append(Failure(model.name, contender.name, where, str(exc)))
        print(f"[{model.name}] {where}: {contender.name} FAILED: {exc}", flush=True)
        return
    run.samples.append(Sample(model.name, contender.name, workload.name, streams, repeat, result))
    print(
        f"[{model.name}] {where}: {contender.name:<16} {result['tokens_per_s']:8.0f} tokens/s, "
        f"first token {1000 * result['ttft_p50_s']:7.1f} ms",
        flush=True,
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    for option, allowed, default in (
        ("models", MODELS, "tiny"),
        ("contenders", NAMES, ",".join(NAMES)),
        ("workloads", tuple(WORKLOADS), ",".join(WORKLOADS)),
    ):
        parser.add_argument(
            f"--{option}", type=_listed(allowed), default=default, help=f"of {','.join(allowed)}; default: {default}"
        )
    parser.add_argument("--streams", type=numbers, default="1,8,32", help="requests at once; default: 1,8,32")
    return parser.parse_args(argv)


def _listed(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    """Reads a list with commas, of some names."""

    def read(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        for name in names:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(allowed)}")
        return names

    return read


if __name__ == "__main__":
    sys.exit(main())
