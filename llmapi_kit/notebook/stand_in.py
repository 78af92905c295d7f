"""HTML that stands in for a widget: it is an output of its own, below the widget's, and the page shows one of the two.

While the widget lives, its stand-in is hidden. In a notebook that is opened again, the front end writes an error where
the widget was; then that is hidden. GitHub and nbconvert's HTML know no widget and show the stand-in.
"""

from __future__ import annotations

from collections.abc import Sequence

CELL = ".jp-OutputArea-child"


def stand_in_style(widgets: Sequence[str], stand_in: str) -> str:
    """A style sheet to put into the stand-in's HTML.

    Args:
        widgets: classes that a living widget has one of.
        stand_in: class of the stand-in.
    """
    living = f":has({', '.join(f'.{each}' for each in widgets)})"
    dead = f"{CELL}:not({living}):has(+ {CELL} .{stand_in})"
    return f"<style>{dead}, {CELL}{living} + {CELL}:has(.{stand_in}){{display:none}}</style>"
