"""Draws the figures of `benchmarks.serving`: a row for each workload, tokens/s beside time to first token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.contenders import NAMES
from benchmarks.figures import shown
from benchmarks.plotting import COLOURS, new_figure, save
from benchmarks.serving_report import Run
from benchmarks.workloads import workload_for

BAR = 0.8  # width of a group of bars


def plot_serving(run: Run, folder: Path) -> list[Path]:
    """Draw ``serving.png`` of the first model, ``serving-<name>.png`` of the others; returns the files."""
    paths = []
    for number, model in enumerate(run.in_order(lambda each: each.model)):
        path = folder / ("serving.png" if number == 0 else f"serving-{model}.png")
        _plot_model(run, model, path)
        paths.append(path)
    return paths


def _plot_model(run: Run, model: str, path: Path) -> None:
    workloads = run.in_order(lambda each: each.workload if each.model == model else None)
    workloads = [name for name in workloads if name]
    figure, axes = new_figure(len(workloads), 2)
    for row, workload in zip(axes, workloads, strict=True):
        label = workload_for(workload, model, is_quick=run.is_quick).label
        _bars(row[0], run, model, workload, "tokens_per_s", 1)
        row[0].set_title(f"{label}\ntokens/s (higher is better)")
        _bars(row[1], run, model, workload, "ttft_p50_s", 1000)
        row[1].set_yscale("log")
        row[1].set_title("median time to first token, ms, log scale\n(lower is better)")
        row[1].margins(y=0.15)
    figure.suptitle(f"Serving {run.models[model]}", fontsize=13, fontweight="bold")
    handles, labels = axes[0][0].get_legend_handles_labels()
    save(figure, path, run.machine, handles, labels)


def _bars(axis: Any, run: Run, model: str, workload: str, figure: str, scale: float) -> None:
    """A group of bars for each number of streams, with its value on each."""
    streams = run.in_order(lambda each: each.streams)
    present = [name for name in NAMES if any(s.model == model and s.contender == name for s in run.samples)]
    width = BAR / len(present)
    for position, name in enumerate(present):
        values = [run.value(model, name, workload, number, figure) for number in streams]
        places = [at + width * (position + 0.5) - BAR / 2 for at in range(len(streams))]
        bars = axis.bar(places, [(value or 0) * scale for value in values], width * 0.94, label=name)
        for bar in bars:
            bar.set_color(COLOURS[name])
        texts = ["failed" if value is None else shown(value * scale) for value in values]
        axis.bar_label(bars, texts, fontsize=7.5, padding=2)
    axis.set_xticks(range(len(streams)), [f"{n} stream{'s' if n > 1 else ''}" for n in streams])
