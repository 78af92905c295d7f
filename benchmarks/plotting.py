"""How the plots look. Matplotlib, without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Okabe and Ito's colours, which colour-blind people can tell apart: https://jfly.uni-koeln.de/color/
COLOURS = {
    "llmapi_kit": "#D55E00",
    "llmapi_kit-gguf": "#E69F00",
    "llmapi_kit-llama.cpp": "#000000",
    "llmapi_kit-isolated": "#F0E442",
    "transformers": "#999999",
    "transformers-cb": "#56B4E9",
    "llama.cpp": "#0072B2",
    "xllamacpp": "#009E73",
    "xllamacpp-1": "#CC79A7",
}


def new_figure(num_rows: int, num_columns: int, *, width: float = 5.6, height: float = 3.1) -> tuple[Any, Any]:
    """A figure with a grid of plots; the grid is always indexed by row and column."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        num_rows, num_columns, figsize=(width * num_columns, height * num_rows + 1.2), squeeze=False
    )
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=9)
        axis.title.set_size(10)
    return figure, axes


def save(
    figure: Any, path: Path, machine: Mapping[str, str], handles: Sequence[Any] = (), labels: Sequence[str] = ()
) -> None:
    """Add a legend and a line that names the machine, and write the file."""
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    line = f"{machine['processor']}, {machine['cores']} cores, {machine['memory']}, {machine['system']}"
    height = figure.get_figheight()
    figure.text(0.5, 0.12 / height, line, ha="center", fontsize=8, color="#555555")
    if handles:
        place = (0.5, 0.3 / height)
        figure.legend(handles, labels, loc="lower center", bbox_to_anchor=place, ncol=len(labels), frameon=False)
    figure.tight_layout(rect=(0, 0.65 / height, 1, 1))
    figure.savefig(path, dpi=140)
    pyplot.close(figure)
