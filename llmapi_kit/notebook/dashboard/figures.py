"""The dashboard's figures as HTML, for where no script runs: a saved notebook, an exported one, other front-ends.

Small curves in SVG beside the latest values, with the time they were taken at. Pure functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from llmapi_kit import tables
from llmapi_kit.api.running_requests import RunningRequest
from llmapi_kit.notebook.card import DIM
from llmapi_kit.notebook.dashboard.samples import Sample
from llmapi_kit.notebook.style import BORDER, CODE_FONT, UI_FONT

WIDTH, HEIGHT = 160, 36
LINE = "var(--jp-brand-color1, #2196f3)"

Figure = tuple[str, Callable[[Sample], float | None], Callable[[float], str]]


def gigabytes(value: float) -> str:
    """Bytes, for people."""
    return f"{value / 1e9:,.2f} GB"


FIGURES: tuple[Figure, ...] = (
    ("Tokens a second", lambda sample: sample.tokens_per_s, lambda value: f"{value:,.0f}"),
    ("Running requests", lambda sample: sample.num_running, tables.count),
    ("Queued requests", lambda sample: sample.num_queued, tables.count),
    ("First token", lambda sample: sample.first_token_s, tables.seconds),
    ("KV memory", lambda sample: sample.kv_use, lambda value: f"{value:.0%}"),
    ("Process memory", lambda sample: sample.process_bytes, gigabytes),
    ("GPU memory", lambda sample: sample.gpu_bytes, gigabytes),
)


def dashboard_html(
    samples: Sequence[Sample], requests: Sequence[RunningRequest], log: Sequence[str], *, name: str, place: str
) -> str:
    """The dashboard as it was at its last sample.

    Args:
        samples: the latest, oldest first; at least one.
        requests: under way then.
        log: lines for people.
        name: of the server, for people.
        place: a class for the element.
    """
    last = samples[-1]
    figures = "".join(
        _figure(samples, *figure) for figure in FIGURES if any(figure[1](each) is not None for each in samples)
    )
    style = f"box-sizing:border-box;margin:4px 0;padding:12px 16px;border:{BORDER};border-radius:8px;{UI_FONT}"
    return (
        f'<div class="{escape(f"llmapi-kit-dashboard {place}".strip())}" style="{style}">'
        f'<div><strong style="font-size:14px">Dashboard</strong> <span style="{DIM}">{escape(name)}</span></div>'
        f'<div style="{DIM};margin-bottom:8px">As of {tables.moment(last.at)}; {escape(totals(last))}</div>'
        f'<div style="display:flex;flex-wrap:wrap;gap:12px 20px">{figures}</div>'
        f"{_requests(requests)}{_log(log)}</div>"
    )


def totals(sample: Sample) -> str:
    """What was done in all, in words."""
    return (
        f"{sample.num_finished:,} requests answered, {sample.num_failed:,} failed, {sample.num_cancelled:,} cancelled; "
        f"{sample.num_prompt_tokens:,} prompt tokens, {sample.num_completion_tokens:,} tokens made"
    )


def usage_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """What a key used today, in words.

    Args:
        rows: of `Server.usage`.
    """
    sums = {name: sum(row[name] for row in rows) for name in ("requests", "prompt_tokens", "completion_tokens")}
    return (
        f"This key today (UTC): {sums['requests']:,} requests, {sums['prompt_tokens']:,} prompt tokens, "
        f"{sums['completion_tokens']:,} tokens made"
    )


def log_text(line: str) -> str:
    """A line of `Server.logs` for people: the time, what happened, and what it took."""
    fields = json.loads(line)
    parts = [str(fields.get("message", ""))]
    if "model" in fields:
        parts.append(f"{fields['model']} {fields['prompt_tokens']}+{fields['completion_tokens']} tokens")
    if "error" in fields:
        parts.append(str(fields["error"]))
    if "seconds" in fields:
        parts.append(tables.seconds(fields["seconds"]))
    level = "" if fields.get("level") == "INFO" else f"{fields.get('level')} "
    text = f"{str(fields.get('time', ''))[11:]} {level}{' · '.join(parts)}"
    return "".join(each if each.isprintable() else " " for each in text)


def _figure(
    samples: Sequence[Sample], title: str, value: Callable[[Sample], float | None], write: Callable[[float], str]
) -> str:
    values = [value(sample) for sample in samples]
    last = next((each for each in reversed(values) if each is not None), None)
    return (
        f'<div><div style="{DIM}">{escape(title)}</div><div style="font-size:16px">'
        f"{'-' if last is None else escape(write(last))}</div>{_curve(values)}</div>"
    )


def _curve(values: Sequence[float | None]) -> str:
    """A line through the values, from 0 to the largest; gaps are bridged."""
    top = max((each for each in values if each is not None), default=0) or 1
    step = WIDTH / max(1, len(values) - 1)
    points = [
        f"{i * step:.1f},{HEIGHT - 1 - (HEIGHT - 2) * each / top:.1f}"
        for i, each in enumerate(values)
        if each is not None
    ]
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">'
        f'<polyline points="{" ".join(points)}" fill="none" stroke="{LINE}" stroke-width="1.5"></polyline></svg>'
    )


def _requests(requests: Sequence[RunningRequest]) -> str:
    if not requests:
        return ""
    body: Iterable[Sequence[str]] = (
        (each.model, each.state, str(each.prompt_tokens), str(each.completion_tokens), tables.seconds(each.seconds))
        for each in requests
    )
    return tables.table_html(["Model", "State", "Prompt tokens", "Tokens so far", "Since"], body)


def _log(log: Sequence[str]) -> str:
    if not log:
        return ""
    lines = escape("\n".join(log))
    return (
        f'<details style="margin-top:8px"><summary style="cursor:pointer">Log</summary>'
        f'<pre style="{CODE_FONT};white-space:pre;overflow-x:auto;margin:4px 0 0">{lines}</pre></details>'
    )
