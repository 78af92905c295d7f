"""Real kernels for tests, through the runner that `make demo` uses; and what to look for in the outputs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
sys.path.insert(0, str(ROOT / "tools"))

from notebook_runner import (  # noqa: E402  (tools are no installed package)
    NotebookError,
    RunningNotebook,
    inject_parameters,
    open_notebook,
)

__all__ = ["NOTEBOOKS", "ROOT", "NotebookError", "RunningNotebook", "inject_parameters", "open_notebook"]


def run_cells(folder, *sources):
    """Run cells in a fresh kernel; returns the notebook."""
    cells = [new_code_cell(source, id=f"cell-{number}") for number, source in enumerate(sources)]
    path = folder / "cells.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "x"}}), path)
    with open_notebook(path) as notebook:
        return notebook.run()


def text_of(cell):
    """All that a cell's outputs say as plain text."""
    parts = []
    for output in cell.get("outputs", []):
        parts.append(output.get("text", ""))
        parts.append(output.get("data", {}).get("text/plain", ""))
    return "".join(parts)


def html_of(cell):
    """All HTML in a cell's outputs."""
    return "".join(output.get("data", {}).get("text/html", "") for output in cell.get("outputs", []))


def mimes_of(cell):
    """The kinds of data in a cell's outputs."""
    return {mime for output in cell.get("outputs", []) for mime in output.get("data", {})}


def cell_of(nb, cell_id):
    return next(cell for cell in nb.cells if cell.id == cell_id)


def keys_in(home):
    """The keys of all servers that run with this home."""
    return [path.read_text().strip() for path in (Path(home) / "servers").glob("*.key")]


def holds(nb, secret):
    """Whether a notebook's JSON has a secret anywhere: outputs, metadata, widget state."""
    return secret in json.dumps(nb)
