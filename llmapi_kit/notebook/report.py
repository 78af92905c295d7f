"""What the doctor found: plain text in a terminal, a table in a notebook.

Knows nothing of what is checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Literal

Level = Literal["ok", "warn", "fail"]
COLOURS: dict[Level, str] = {"ok": "#2e9e5b", "warn": "#c77700", "fail": "#d13438"}


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Attributes:
        level: ``ok``, ``warn`` (works, with a limit) or ``fail`` (has to be repaired).
        name: what was looked at.
        text: what was seen.
        advice: what to do, where there is something to do.
    """

    level: Level
    name: str
    text: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.level:<4}  {self.name}: {self.text}.{' ' + self.advice if self.advice else ''}".replace(
            "..", "."
        )


@dataclass(frozen=True, slots=True)
class Report:
    """All findings.

    Attributes:
        checks: in the order they were made.
    """

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing has to be repaired; warnings are allowed."""
        return not self.problems("fail")

    def problems(self, level: Level) -> list[Check]:
        """The findings of one level."""
        return [check for check in self.checks if check.level == level]

    @property
    def verdict(self) -> str:
        """All of it in one sentence."""
        failures, warnings = len(self.problems("fail")), len(self.problems("warn"))
        noted = f" {_count(warnings, 'warning')}." if warnings else ""
        if failures:
            return f"{_count(failures, 'problem')} to repair first.{noted}"
        if warnings:
            names = ", ".join(check.name for check in self.problems("warn"))
            return f"Ready, but for {_count(warnings, 'warning')}: {names}."
        return "Ready."

    def __str__(self) -> str:
        return "\n".join([*map(str, self.checks), "", self.verdict])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        cell = "text-align:left;vertical-align:top;padding:3px 14px 3px 0"
        rows = []
        for check in self.checks:
            colour = COLOURS[check.level]
            advice = f'<div style="opacity:.75">{escape(check.advice)}</div>' if check.advice else ""
            rows.append(
                f'<tr><td style="{cell};color:{colour};font-weight:600">{check.level}</td>'
                f'<th scope="row" style="{cell};white-space:nowrap">{escape(check.name)}</th>'
                f'<td style="{cell}">{escape(check.text)}{advice}</td></tr>'
            )
        colour = COLOURS["fail" if not self.ok else "warn" if self.problems("warn") else "ok"]
        verdict = f'<p style="margin:8px 0;font-weight:600;color:{colour}">{escape(self.verdict)}</p>'
        return f'<table style="margin:0">{"".join(rows)}</table>{verdict}'


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
