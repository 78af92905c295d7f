"""Lists and mappings that a notebook shows as tables. Code uses them as the lists and mappings that they are.

Knows nothing of what is in them but how it is written: each column has a heading and a way to write its values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any, TypeVar

T = TypeVar("T")
Columns = Mapping[str, tuple[str, Callable[[Any], str]]]  # by field: its heading, and how a value is written


class Table(list[T]):
    """A list of mappings or objects.

    Args:
        rows: what is in it.
        columns: what is shown of each row, in this order.
        empty: what a cell shows where there are no rows.
    """

    def __init__(self, rows: Iterable[T], columns: Columns, *, empty: str) -> None:
        super().__init__(rows)
        self._columns = columns
        self._empty = empty

    def as_text(self) -> str:
        """For terminals."""
        if not self:
            return self._empty
        lines = [self._head(), *self._body()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
        return "\n".join(line.rstrip() for line in padded)

    def _repr_html_(self) -> str:
        if not self:
            return f"<p>{escape(self._empty)}</p>"
        return table_html(self._head(), self._body())

    def _head(self) -> list[str]:
        return [heading for heading, _ in self._columns.values()]

    def _body(self) -> list[list[str]]:
        return [[write(_value(row, name)) for name, (_, write) in self._columns.items()] for row in self]


class StatsTable(dict[str, dict[str, float]]):
    """Statistics by model: a column each in a cell.

    Args:
        stats: of each model; see `llmapi_kit.types.EngineStats.summary`.
    """

    def _repr_html_(self) -> str:
        labels = list(_stats_rows(next(iter(self.values())))) if self else []
        columns = [list(_stats_rows(stats).values()) for stats in self.values()]
        return table_html(["", *self], [[label, *values] for label, *values in zip(labels, *columns, strict=True)])


def table_html(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table with a head; every text is escaped."""
    cell = "text-align:left;vertical-align:top;padding:3px 14px 3px 0"
    heads = "".join(f'<th scope="col" style="{cell}">{escape(each)}</th>' for each in head)
    rows = "".join(f"<tr>{''.join(_cell(each, cell) for each in row)}</tr>" for row in body)
    return f'<table style="margin:4px 0"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'


def _cell(value: str, style: str) -> str:
    return f'<td style="{style}">{escape(value)}</td>'


def count(value: float) -> str:
    """A number of things."""
    return f"{value:,.0f}"


def seconds(value: float) -> str:
    """How long something took, as short as it can be read."""
    if value == 0:
        return "-"
    if value < 1:
        return f"{value * 1000:,.3g} ms"
    return f"{value:,.1f} s" if value < 120 else f"{value / 60:,.1f} min"


def moment(value: float) -> str:
    """A Unix time, in this machine's time zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))


def names(value: Iterable[str]) -> str:
    """Several names."""
    return ", ".join(value)


def text(value: object) -> str:
    """Whatever it is; nothing for None."""
    return "" if value is None else str(value)


def _value(row: object, name: str) -> Any:
    return row[name] if isinstance(row, Mapping) else getattr(row, name)


def _stats_rows(stats: Mapping[str, float]) -> dict[str, str]:
    """What is shown of a model, by label."""
    ended = f"{count(stats['num_failed'])} failed, {count(stats['num_cancelled'])} cancelled"
    return {
        "Running": f"{count(stats['num_running'])} of {count(stats['num_slots'])} slots"
        if stats["num_slots"]
        else count(stats["num_running"]),
        "Queued": count(stats["num_queued"]),
        "Finished": f"{count(stats['num_finished'])} ({ended})",
        "Prompt tokens": f"{count(stats['num_prompt_tokens'])} ({count(stats['num_cached_tokens'])} cached)",
        "Tokens made": count(stats["num_completion_tokens"]),
        "Speed": f"{stats['tokens_per_s']:,.1f} tokens/s",
        "First token": f"{seconds(stats['ttft_p50_s'])} (99 %: {seconds(stats['ttft_p99_s'])})",
        "Between tokens": f"{seconds(stats['inter_token_p50_s'])} (99 %: {seconds(stats['inter_token_p99_s'])})",
        "KV memory in use": f"{stats['kv_use']:.0%}",
    }
