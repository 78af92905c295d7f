"""What the chooser shows of one model, as HTML: what it takes, in bars beside what is free, and what to know about it.

Styles are inline, with Jupyter's variables and half-transparent greys, so that it looks right on light and dark pages.
Knows no widgets.
"""

from __future__ import annotations

from html import escape

from llmapi_kit.checkpoints.needs import Needs, precisions_of
from llmapi_kit.config import Settings
from llmapi_kit.notebook.chooser.entries import Entry
from llmapi_kit.notebook.chooser.machine import GIB, ChooserMachine
from llmapi_kit.notebook.chooser.text import access, parameters
from llmapi_kit.notebook.progress_state import as_amount
from llmapi_kit.notebook.stand_in import stand_in_style
from llmapi_kit.notebook.style import BORDER, CODE_FONT, TEXT, UI_FONT

BOX = f"border:{BORDER};border-radius:6px"
WEIGHTS, CONTEXT, OVERHEAD = "#2b7de9", "#20a39e", "#8a8a8a"
BASE = {"fits": "#2e9e5b", "tight": "#c77700", "too large": "#d13438", "not here": "#8a8a8a"}
# Of enough contrast on light and dark pages
COLOURS = {verdict: f"color-mix(in srgb, {colour} 60%, {TEXT})" for verdict, colour in BASE.items()}
WORDS = {"fits": "fits", "tight": "tight: short requests only", "too large": "does not fit"}
MARKS = "✓ fits   ~ short requests only   ✗ too large   ★ recommended"
HINT = "Nothing happens? The kernel is busy with a cell, or gone: then run this cell again."
CLASS, STAND_IN_CLASS = "llmapi-kit-chooser", "llmapi-kit-choices"
LEGEND = (("weights", WEIGHTS), ("context of one request", CONTEXT), ("libraries", OVERHEAD))


def header(machine: ChooserMachine, recommended: str | None) -> str:
    """The machine, and what is recommended for it."""
    word = f"Recommended here: <strong>{escape(recommended)}</strong>" if recommended else _nothing_fits()
    return f'<div style="{UI_FONT}"><div>{escape(str(machine))}</div><div>{word}</div></div>'


def detail(entry: Entry, machine: ChooserMachine, settings: Settings) -> str:
    """All about one model."""
    needs = [entry.needs(precision, machine, settings) for precision in precisions_of(machine.device)]
    known = [each for each in needs if each is not None]
    rows = "".join(_memory_row(each, _scale(known, machine)) for each in known)
    memory = f"{_legend()}{rows}" if known else _line("Memory", "not known before it is loaded")
    facts = "".join(_line(name, value) for name, value in _facts(entry, machine))
    title = f'<div style="font-size:15px;font-weight:600;overflow-wrap:anywhere">{escape(entry.name)}</div>'
    about = f'<div style="opacity:.8;margin-bottom:6px">{escape(entry.good_for)}</div>'
    return f'<div style="{UI_FONT};{BOX};padding:8px 12px">{title}{about}{facts}{memory}</div>'


def stand_in(table: str) -> str:
    """What a saved notebook shows in place of the widgets: the models as a table, as it was then."""
    style = stand_in_style([CLASS], STAND_IN_CLASS)
    return f'<div class="{STAND_IN_CLASS}">{style}<pre style="{CODE_FONT};white-space:pre">{escape(table)}</pre></div>'


def marks() -> str:
    """What the signs before the names mean, and what a dead button does."""
    style = f"{UI_FONT};font-size:12px;opacity:.8;white-space:pre-wrap"
    return f'<div style="{style}">{MARKS}\n{HINT}</div>'


def code_line(code: str) -> str:
    """A line of Python to copy."""
    style = (
        f"{CODE_FONT};{BOX};margin:0;padding:6px 10px;overflow-x:auto;user-select:all;background:rgba(128,128,128,.08)"
    )
    return f'<pre style="{style}">{escape(code)}</pre>'


def message(text: str, is_good: bool = True) -> str:
    """A sentence on how something went."""
    colour = COLOURS["fits" if is_good else "too large"]
    return f'<div role="status" style="{UI_FONT};color:{colour};overflow-wrap:anywhere">{escape(text)}</div>'


def _facts(entry: Entry, machine: ChooserMachine) -> list[tuple[str, str]]:
    found = [("Parameters", parameters(entry))]
    if entry.shape is not None and entry.shape.max_position_embeddings:
        found.append(("Context", f"up to {entry.shape.max_position_embeddings:,} tokens"))
    if entry.licence:
        gate = " (accept its terms on the hub, and set HF_TOKEN)" if entry.is_gated else ""
        doubt = "" if entry.is_checked else " (not verified: its page on the hub counts)"
        found.append(("Licence", f"{access(entry)}{gate}{doubt}"))
    return [*found, ("Disk", _disk(entry, machine))]


def _disk(entry: Entry, machine: ChooserMachine) -> str:
    size = as_amount(entry.here_bytes, "B")
    if entry.is_complete:
        return f"{size}, on this machine; nothing to download"
    missing = as_amount(entry.missing_bytes, "B")
    rest = f", {size} are here already" if entry.here_bytes else ""
    free = as_amount(machine.free_disk_bytes, "B")
    short = "" if entry.missing_bytes < machine.free_disk_bytes else ": too little; set HF_HOME to a larger disk"
    return f"{missing} to download{rest}; {free} free in {machine.disk}{short}"


def _scale(needs: list[Needs], machine: ChooserMachine) -> float:
    """Bytes that a whole bar stands for."""
    usable = [each.total_bytes for each in needs if not each.obstacle]
    return float(max([*usable, machine.free_bytes]) or 1)


def _memory_row(needs: Needs, scale: float) -> str:
    colour = COLOURS[needs.verdict]
    if needs.obstacle:
        return (
            f'<div style="display:flex;gap:8px;margin-top:6px;opacity:.75"><span style="flex:0 0 5rem">{_name(needs)}'
            f"</span><span>{escape(needs.obstacle)}</span></div>"
        )
    parts = ((needs.fit.weights_bytes, WEIGHTS), (needs.kv_bytes, CONTEXT), (needs.overhead_bytes, OVERHEAD))
    bars = "".join(f'<div style="width:{100 * size / scale:.1f}%;background:{fill}"></div>' for size, fill in parts)
    free = f"left:{min(100.0, 100 * needs.fit.free_bytes / scale):.1f}%"
    mark = f'<div style="position:absolute;top:-2px;bottom:-2px;{free};border-left:2px solid {colour}"></div>'
    frame = "position:relative;flex:1 1 8rem;min-width:6rem;height:10px;background:rgba(128,128,128,.2)"
    bar = f'<div style="{frame}"><div style="display:flex;height:100%">{bars}</div>{mark}</div>'
    numbers = f"{needs.total_bytes / GIB:,.1f} GiB"
    return (
        f'<div style="display:flex;gap:8px;align-items:center;margin-top:6px"><span style="flex:0 0 5rem">'
        f'{_name(needs)}</span>{bar}<span style="flex:0 0 4.5rem;text-align:right">{numbers}</span></div>'
        f'<div style="margin-left:calc(5rem + 8px);font-size:12px"><span style="color:{colour};font-weight:600">'
        f'{WORDS[needs.verdict]}</span><span style="opacity:.8"> {escape(_parts(needs))}</span></div>'
    )


def _parts(needs: Needs) -> str:
    plan = needs.plan
    room = f"; {plan.num_slots} at once, of {plan.max_length:,} tokens" if plan is not None else ""
    weights, context = needs.fit.weights_bytes / GIB, needs.kv_bytes / GIB
    return f"{weights:,.1f} weights + {context:,.1f} context + {needs.overhead_bytes / GIB:,.1f} libraries{room}"


def _legend() -> str:
    square = "display:inline-block;width:9px;height:9px;margin:0 4px 0 10px;background:"
    items = "".join(f'<span style="{square}{colour}"></span>{escape(name)}' for name, colour in LEGEND)
    return f'<div style="font-size:12px;opacity:.85;margin-top:6px">Memory:{items}; the line is what is free</div>'


def _name(needs: Needs) -> str:
    return escape({"8bit": "8 bits"}.get(needs.precision, needs.precision))


def _line(name: str, value: str) -> str:
    return (
        f'<div style="display:flex;gap:8px"><span style="flex:0 0 5rem;opacity:.7">{escape(name)}</span>'
        f'<span style="min-width:0;overflow-wrap:anywhere">{escape(value)}</span></div>'
    )


def _nothing_fits() -> str:
    return "No model of the table fits into what is free; <strong>pocket</strong> needs no download."
