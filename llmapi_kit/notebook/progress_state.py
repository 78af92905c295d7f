"""What a display of progress knows: the step, its parts, how fast it goes and how long it will take; as HTML and text.

Draws nothing itself and knows no IPython. Reports come from any thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from llmapi_kit.notebook.style import UI_FONT
from llmapi_kit.progress import Progress

PART = ": "  # a step "a: b" is a part of the step "a"
SPEED_OVER_S = 8.0
MAX_PARTS = 6
BAR_CHARS = 20
BLUE, GREEN, RED, AMBER = "#2b7de9", "#2e9e5b", "#d13438", "#b26a00"
BYTE_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended.

    Attributes:
        text: in a few words.
        is_good: whether it was done.
    """

    text: str
    is_good: bool


class ProgressState:
    """What was reported, as far as it matters now.

    Args:
        title: what is being done.
        clock: tells the time, in seconds.

    Attributes:
        title: see above.
        step: that is under way; empty before the first.
        current: the last report of that step.
        note_text: what holds it up; empty if nothing does.
        ended: how it ended; None before it did.
    """

    def __init__(self, title: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self.title = title
        self.step = ""
        self.current = Progress("")
        self.note_text = ""
        self.ended: Ended | None = None
        self._clock = clock
        self._started_at = clock()
        self._step_started_at = self._started_at
        self._parts: dict[str, Progress] = {}
        self._samples: deque[tuple[float, float]] = deque()
        self._received = 0.0
        self._lock = threading.Lock()

    def note(self, progress: Progress) -> None:
        """Take in a report: of a part, of what holds the step up, or of the step itself."""
        whole, _, rest = progress.step.partition(PART)
        with self._lock:
            if rest and progress.done is not None:
                self._enter(whole)
                self._parts[rest] = progress
            elif rest:
                self._enter(whole)
                self.note_text = rest
            else:
                self._enter(progress.step)
                self._measure(progress)
                self.current = progress

    def end(self, error: BaseException | None) -> None:
        """Take in how it ended."""
        where = f"while {self.step}" + (f" ({self.note_text})" if self.note_text else "")
        seconds = as_time(self._clock() - self._started_at)
        if error is None:
            self.ended = Ended(f"Ready in {seconds}", True)
        elif isinstance(error, KeyboardInterrupt):
            self.ended = Ended(f"Interrupted after {seconds}, {where}", False)
        else:
            self.ended = Ended(f"Failed after {seconds}, {where}", False)

    def parts(self) -> list[tuple[str, Progress]]:
        """Those that are under way, by name; the rest are done or wait."""
        with self._lock:
            running = [(name, each) for name, each in sorted(self._parts.items()) if each.done != each.total]
        return running[:MAX_PARTS]

    @property
    def elapsed_s(self) -> float:
        """How long the step has been under way."""
        return self._clock() - self._step_started_at

    @property
    def speed(self) -> float | None:
        """Of the step, in its unit a second, over the last seconds; None where it can't be told."""
        with self._lock:
            samples = list(self._samples)
        if len(samples) < 2 or samples[-1][0] <= samples[0][0]:
            return None
        return max(0.0, (samples[-1][1] - samples[0][1]) / (samples[-1][0] - samples[0][0]))

    @property
    def left_s(self) -> float | None:
        """How long the step will take; None where it can't be told."""
        now = self.current
        if not self.speed or now.done is None or now.total is None:
            return None
        return (now.total - now.done) / self.speed

    def _enter(self, step: str) -> None:
        if step != self.step:
            self.step, self.current = step, Progress(step)
            self._step_started_at = self._clock()
            self._parts.clear()
            self._samples.clear()
            self.note_text = ""

    def _measure(self, progress: Progress) -> None:
        if progress.done is None:
            return
        now = self._clock()
        has_moved = self._samples and progress.done > self._samples[-1][1]
        if has_moved:
            self.note_text = ""
        self._samples.append((now, progress.done))
        while now - self._samples[0][0] > SPEED_OVER_S and len(self._samples) > 2:
            self._samples.popleft()


def as_line(state: ProgressState) -> str:
    """All of it in one line of text."""
    begin = f"{state.title}: " if state.title else ""
    if state.ended is not None:
        return f"{begin}{state.ended.text}"
    fraction = state.current.fraction
    bar = "" if fraction is None else f" {'#' * round(fraction * BAR_CHARS):-<{BAR_CHARS}} {fraction:4.0%}"
    notes = [state.note_text] if state.note_text else []
    return f"{begin}{state.step}{bar}{''.join(f', {each}' for each in [*details(state), *notes])}"


def as_html(state: ProgressState) -> str:
    """All of it as HTML, with its styles inline: front ends strip style sheets."""
    title = f"<strong>{escape(state.title)}</strong> " if state.title else ""
    if state.ended is not None:
        colour = GREEN if state.ended.is_good else RED
        body = f'{title}<span style="color:{colour}">{escape(state.ended.text)}</span>'
        return f'<div class="llmapi-kit-progress" style="{UI_FONT}">{body}</div>'
    numbers = f'<span style="opacity:.75;margin-left:8px">{escape(" · ".join(details(state)))}</span>'
    rows = [f"<div>{title}{escape(state.step)}{numbers}</div>", _bar(state.current, state.step)]
    if state.note_text:
        rows.append(f'<div role="status" style="color:{AMBER}">{escape(state.note_text)}</div>')
    rows += [_part(name, each) for name, each in state.parts()]
    return f'<div class="llmapi-kit-progress" style="{UI_FONT};max-width:46rem">{"".join(rows)}</div>'


def details(state: ProgressState) -> list[str]:
    """How much of the step is done, how fast it goes, what is left; how long it takes where that is not known."""
    now, found = state.current, []
    if now.done is not None:
        of = f" of {as_amount(now.total, now.unit)}" if now.total else ""
        found.append(f"{as_amount(now.done, now.unit)}{of}")
    if state.speed and now.unit == "B" and not state.note_text:
        found.append(f"{as_amount(state.speed, now.unit)}/s")
    if state.left_s is not None and now.unit == "B" and not state.note_text:
        found.append(f"{as_time(state.left_s)} left")
    elif state.elapsed_s >= 1:
        found.append(as_time(state.elapsed_s))
    return found


def as_amount(value: float, unit: str) -> str:
    """A number with its unit, for people."""
    if unit != "B":
        return f"{value:,.0f}{' ' + unit if unit else ''}"
    name, size = next(((name, size) for name, size in BYTE_UNITS if value >= size), ("B", 1.0))
    return f"{value / size:,.{0 if name in ('B', 'kB') else 1 if name == 'MB' else 2}f} {name}"


def as_time(seconds: float) -> str:
    """A time for people: 8 s, 2:05 min, 1:10 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"


def _bar(progress: Progress, label: str, height_px: int = 6) -> str:
    fraction = progress.fraction
    if fraction is None:
        return ""
    frame = f"height:{height_px}px;border-radius:3px;background:rgba(128,128,128,.25);overflow:hidden;margin:3px 0"
    return (
        f'<div role="progressbar" aria-label="{escape(label)}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{fraction * 100:.0f}" style="{frame}">'
        f'<div style="width:{fraction * 100:.1f}%;height:100%;background:{BLUE}"></div></div>'
    )


def _part(name: str, progress: Progress) -> str:
    total = as_amount(progress.total or 0, progress.unit)
    numbers = f"{as_amount(progress.done or 0, progress.unit)} of {total}"
    return (
        '<div style="display:flex;gap:10px;align-items:center;font-size:12px;opacity:.85">'
        f'<span style="flex:0 1 20rem;overflow-wrap:anywhere">{escape(name)}</span>'
        f'<span style="flex:1 1 6rem">{_bar(progress, name, 4)}</span>'
        f'<span style="flex:0 0 9rem;text-align:right">{numbers}</span></div>'
    )
