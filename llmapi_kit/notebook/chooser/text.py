"""The chooser as text, for a terminal or a plain program; and the words that its widget uses too."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from llmapi_kit.checkpoints.known_models import read_table
from llmapi_kit.checkpoints.needs import NOT_YET, Needs, precisions_of
from llmapi_kit.config import Settings
from llmapi_kit.notebook.chooser.entries import Entry
from llmapi_kit.notebook.chooser.machine import GIB, ChooserMachine
from llmapi_kit.notebook.progress_state import as_amount

MARKS = {"fits": "fits", "tight": "tight", "too large": "too large", "not here": ""}


def as_table(entries: Sequence[Entry], machine: ChooserMachine, settings: Settings) -> str:
    """One row for each model: what it needs in each number format, beside what is free."""
    head = ("Model", "Parameters", "Download", *precisions_of(machine.device), "Licence", "Here")
    rows = [head, *(_row(entry, machine, settings) for entry in entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def footnote() -> str:
    """What the numbers are."""
    text = (
        "Memory is weights, one request of the usual length, and the libraries. The number format is that of the "
        f"weights. {NOT_YET} Sizes are from a table reviewed on {read_table().reviewed}; the hub is asked "
        "before a download. Licences with a question mark were not verified."
    )
    return textwrap.fill(text, 110)


def parameters(entry: Entry) -> str:
    """A number of parameters, in short."""
    count = entry.num_parameters
    if not count:
        return "?"
    return f"{count / 1e9:.1f} B" if count >= 9.9e8 else f"{count / 1e6:,.{0 if count >= 1e7 else 1}f} M"


def presence(entry: Entry) -> str:
    """Whether it is on this machine, in a word."""
    if entry.where != "hub":
        return "yes"
    if entry.is_complete:
        return "downloaded"
    return f"in part, {as_amount(entry.here_bytes, 'B')}" if entry.here_bytes else "no"


def access(entry: Entry) -> str:
    """Its licence, and whether a token is needed; with a question mark where nobody has looked that up."""
    doubt = "" if entry.is_checked else "?"
    return f"{entry.licence}, gated{doubt}" if entry.is_gated else f"{entry.licence}{doubt}"


def memory(needs: Needs | None) -> str:
    """What one number format takes, and whether that is free."""
    if needs is None:
        return "?"
    if needs.verdict == "not here":
        return needs.obstacle if len(needs.obstacle) < 16 else "not installed"
    return f"{needs.total_bytes / GIB:,.1f} GiB {MARKS[needs.verdict]}"


def _row(entry: Entry, machine: ChooserMachine, settings: Settings) -> tuple[str, ...]:
    download = as_amount(entry.missing_bytes, "B") if entry.missing_bytes else "none"
    needs = [memory(entry.needs(precision, machine, settings)) for precision in precisions_of(machine.device)]
    return (entry.name, parameters(entry), download, *needs, access(entry) or "?", presence(entry))
