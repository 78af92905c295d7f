"""The report of `benchmarks.serving`: what was measured, and as tables in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.contenders import DESCRIPTIONS, OWN
from benchmarks.contenders import NAMES as CONTENDERS
from benchmarks.figures import best, median, ratio, shown
from benchmarks.machine import machine_line
from benchmarks.workloads import workload_for

HEADER = "| streams | server | tokens/s | lowest to highest | TTFT p50 | TTFT p99 | gap p50 | gap p99 |"
RULE = "|---:|---|---:|---:|---:|---:|---:|---:|"


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement; `result` has the fields of `benchmarks.load.LoadResult`."""

    model: str
    contender: str
    workload: str
    streams: int
    repeat: int
    result: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """A contender that did not start, or a measurement that failed, with the end of its log."""

    model: str
    contender: str
    where: str
    message: str


@dataclass(slots=True)
class Run:
    """Everything a run found out.

    Attributes:
        machine: see `benchmarks.machine.describe_machine`.
        started: date and time.
        command: that was run.
        is_quick: one round of few tokens: shows that it works, measures nothing.
        models: label by name.
        peak_rss_bytes: by model and contender, of the whole process tree.
        steadiness: what `benchmarks.steadiness` says of the machine.
    """

    machine: dict[str, str]
    started: str
    command: str
    is_quick: bool = False
    models: dict[str, str] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    peak_rss_bytes: dict[str, int] = field(default_factory=dict)
    steadiness: str = ""

    def value(self, model: str, contender: str, workload: str, streams: int, figure: str) -> float | None:
        """The median over the repeats; None where nothing was measured."""
        return median(self.values(model, contender, workload, streams, figure))

    def values(self, model: str, contender: str, workload: str, streams: int, figure: str) -> list[float]:
        """Of each repeat, where it was measured."""
        cell = (model, contender, workload, streams)
        values = [each.result[figure] for each in self.samples if _cell(each) == cell]
        return [value for value in values if value is not None]

    def in_order(self, pick: Callable[[Sample], Any]) -> list[Any]:
        """What occurs in the samples, in the order of its first occurrence."""
        return list(dict.fromkeys(pick(each) for each in self.samples))


def _cell(sample: Sample) -> tuple[str, str, str, int]:
    return sample.model, sample.contender, sample.workload, sample.streams


def to_markdown(run: Run) -> str:
    """The whole report."""
    lines = ["# Serving, side by side", ""]
    if run.is_quick:
        lines += ["**A quick run: it shows that everything works and measures nothing.**", ""]
    lines += [f"Made by `{run.command}`, {run.started}.", "", machine_line(run.machine), ""]
    lines += [run.steadiness, ""] if run.steadiness else []
    lines += _explanation(run)
    for model in run.in_order(lambda each: each.model):
        lines += [f"## {run.models[model]}", ""]
        for workload in run.in_order(lambda each: each.workload):
            label = workload_for(workload, model, is_quick=run.is_quick).label
            lines += [f"### {label}", "", HEADER, RULE, *_rows(run, model, workload), ""]
        lines += _ratios(run, model)
        lines += _memory(run, model)
    if run.failures:
        lines += ["## What failed", ""]
        for failure in run.failures:
            lines += [f"{failure.model}, {failure.contender}, {failure.where}:", "", "```"]
            lines += [failure.message, "```", ""]
    return "\n".join(lines).rstrip()


def _explanation(run: Run) -> list[str]:
    repeats = len(run.in_order(lambda each: each.repeat))
    text = (
        f"Medians over {repeats} repeats. TTFT is the time to the first token, as the client sees it, from before it "
        "connects; a gap is the time between two pieces of text of a stream. Every request makes the same number of "
        "tokens, greedily. Requests of a round start together. The others are held still while one is measured."
    )
    return [text, "", *(f"- {name}: {what}" for name, what in DESCRIPTIONS.items()), ""]


def _rows(run: Run, model: str, workload: str) -> Iterable[str]:
    for streams in run.in_order(lambda each: each.streams):
        for contender in CONTENDERS:
            cell = (model, contender, workload, streams)
            if run.value(*cell, "tokens_per_s") is None:
                if any(f.model == model and f.contender == contender for f in run.failures):
                    yield f"| {streams} | {contender} | failed | | | | | |"
                continue
            times = (run.value(*cell, f"{name}_s") for name in ("ttft_p50", "ttft_p99", "gap_p50", "gap_p99"))
            shown_times = " | ".join(shown(None if t is None else 1000 * t, " ms") for t in times)
            rates = run.values(*cell, "tokens_per_s")
            spread = f"{shown(min(rates))} to {shown(max(rates))}"
            yield f"| {streams} | {contender} | {shown(median(rates))} | {spread} | {shown_times} |"


def _ratios(run: Run, model: str) -> list[str]:
    """Ours over the best of the others, where there are others."""
    lines = []
    for workload in run.in_order(lambda each: each.workload):
        for streams in run.in_order(lambda each: each.streams):
            for ours in OWN:
                cell = (run, model, workload, streams, ours)
                parts = [
                    _ratio(*cell, "tokens_per_s", is_higher_better=True),
                    _ratio(*cell, "ttft_p50_s", is_higher_better=False),
                ]
                if all(parts):
                    lines.append(f"| {workload} | {streams} | {ours} | {' | '.join(part for part in parts if part)} |")
    if not lines:
        return []
    head = ["| workload | streams | server | tokens/s, times the best other | TTFT p50, share of the best other's |"]
    return ["### Ours against the best of the others", "", *head, "|---|---:|---|---:|---:|", *lines, ""]


def _ratio(
    run: Run, model: str, workload: str, streams: int, ours: str, figure: str, *, is_higher_better: bool
) -> str | None:
    others = {name: run.value(model, name, workload, streams, figure) for name in CONTENDERS if name not in OWN}
    winner = best(others, is_higher_better=is_higher_better)
    value = run.value(model, ours, workload, streams, figure)
    return None if winner is None or value is None else f"{shown(ratio(value, others[winner]))} ({winner})"


def _memory(run: Run, model: str) -> list[str]:
    rows = [
        f"| {name} | {shown(run.peak_rss_bytes[key] / 2**20)} MiB |"
        for name in CONTENDERS
        if (key := f"{model} {name}") in run.peak_rss_bytes
    ]
    return ["### Peak memory (resident, of all processes)", "", "| server | memory |", "|---|---:|", *rows, ""]
