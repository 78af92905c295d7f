"""Measures the time to the first token, turn by turn, of a conversation that grows; with prefix cache and without.

Each turn sends everything said so far, the answers as the server gave them, and asks for 150 new tokens. With a prefix
cache only what is new is computed, so the time stays flat; without, it grows with the conversation. Two servers of
this kit, in turns, the other held still.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender, make_ours
from benchmarks.event_stream_client import ask
from benchmarks.figures import median, ratio, shown
from benchmarks.machine import describe_machine, machine_line
from benchmarks.measuring import LoadFailedError, command_line, make_parser, write_results
from benchmarks.models import NAMES as MODELS
from benchmarks.models import BenchModel, make_model
from benchmarks.plotting import new_figure, save
from benchmarks.processes import stop_on_sigterm
from benchmarks.steadiness import Steadiness

CACHES = {"with prefix cache": "per_key", "without": "off"}  # label to setting
NUM_TURNS = 10
MAX_TOKENS = 150
QUESTION_WORDS = 20
Times = dict[str, list[list[float]]]  # label to conversations to TTFT in seconds of each turn


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, report and plot."""
    args = _parse(argv)
    stop_on_sigterm()
    steadiness = Steadiness()
    model = make_model(args.model, args.work)
    times = measure(model, args, steadiness)
    machine = describe_machine()
    lines = ["# Time to first token of a growing conversation", "", f"Made by `{command_line('conversation', argv)}`."]
    lines += ["", machine_line(machine), "", steadiness.sentence(), ""]
    if args.quick:
        lines += ["**A quick run: it shows that everything works and measures nothing.**", ""]
    lines += [f"{model.label}; medians over {args.repeats} conversations, in ms.", "", *table(times)]
    data = {"machine": machine, "steadiness": steadiness.sentence(), "ttft_s": times}
    write_results(args.results, "conversation", "\n".join(lines), data)
    _plot(times, model, machine, args.results / "conversation.png")
    return 0


def measure(model: BenchModel, args: argparse.Namespace, steadiness: Steadiness) -> Times:
    """Hold the conversations, a new one for each server and repeat.

    Raises:
        LoadFailedError: an answer failed, or had another length than asked for.
    """
    times: Times = {label: [] for label in CACHES}
    words = json.loads(model.words.read_text())
    num_turns, max_tokens = (3, 8) if args.quick else (NUM_TURNS, MAX_TOKENS)
    with contextlib.ExitStack() as stack:
        servers = {label: make_ours(model, args.work, prefix_cache=setting) for label, setting in CACHES.items()}
        for label, server in servers.items():
            print(f"Starting the server {label} ...", flush=True)
            stack.enter_context(server.server)
            asyncio.run(_converse(server, words, 2, 8, seed=-1))  # the first requests of a server are slower
            server.server.hold()
        for repeat in range(args.repeats):
            for label, server in servers.items():
                steadiness.probe()
                server.server.go_on()
                times[label].append(asyncio.run(_converse(server, words, num_turns, max_tokens, seed=repeat)))
                server.server.hold()
                shown_times = " ".join(f"{1000 * time:.1f}" for time in times[label][-1])
                print(f"conversation {repeat + 1}, {label}: {shown_times} ms", flush=True)
    return times


def table(times: Times) -> list[str]:
    """A row for each turn, and how much later turns take."""
    by_turn = {label: [median(turn) for turn in zip(*runs, strict=True)] for label, runs in times.items()}
    lines = [f"| turn | {' | '.join(by_turn)} |", f"|---:|{'---:|' * len(by_turn)}"]
    for turn, values in enumerate(zip(*by_turn.values(), strict=True), start=1):
        cells = " | ".join(shown(None if value is None else 1000 * value) for value in values)
        lines.append(f"| {turn} | {cells} |")
    ratios = " | ".join(shown(ratio(values[-1], values[1])) for values in by_turn.values())
    return [*lines, f"| last / second | {ratios} |"]


async def _converse(server: Contender, words: Sequence[str], num_turns: int, max_tokens: int, seed: int) -> list[float]:
    """One conversation; the seconds to the first token of each turn."""
    source = random.Random(seed)
    messages: list[dict[str, str]] = []
    times = []
    for turn in range(num_turns):
        question = "".join(source.choice(words) for _ in range(QUESTION_WORDS))
        messages.append({"role": "user", "content": question})
        body = {"model": server.model, "messages": messages, "max_tokens": max_tokens, "stream": True, "temperature": 0}
        answer = (await ask(server.url, json.dumps({**body, **server.fields}).encode(), server.key)).parse()
        if answer.error or answer.num_tokens != max_tokens or answer.ttft_s is None:
            problem = answer.error or f"{answer.num_tokens} tokens in place of {max_tokens}"
            raise LoadFailedError(f"Turn {turn + 1}: {problem}\nIts log ends:\n{server.server.log_tail()}")
        times.append(answer.ttft_s)
        messages.append({"role": "assistant", "content": answer.text})
    return times


def _plot(times: Times, model: BenchModel, machine: Mapping[str, str], path: Path) -> None:
    figure, axes = new_figure(1, 1, width=7.5, height=3.8)
    axis: Any = axes[0][0]
    for (label, runs), colour in zip(times.items(), ("#D55E00", "#999999"), strict=True):
        values = [1000 * (median(turn) or 0) for turn in zip(*runs, strict=True)]
        axis.plot(range(1, len(values) + 1), values, marker="o", color=colour, label=label)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("turn")
    axis.set_ylabel("median time to first token, ms")
    axis.set_title(f"A growing conversation, {MAX_TOKENS} new tokens a turn: {model.label}")
    save(figure, path, machine, *axis.get_legend_handles_labels())


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--model", choices=MODELS, default="tiny")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
