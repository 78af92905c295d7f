"""How an error looks in a notebook: its message and the line of the cell, not the hundred frames between them.

IPython asks an exception's ``_render_traceback_`` before it makes a traceback of its own; ``%tb`` asks the same
exception again, and then gets all of it. Free of IPython, but for what a running shell brings.
"""

from __future__ import annotations

import linecache
import sys
import traceback
from typing import Any

RED, PLAIN = "\x1b[31m", "\x1b[39m"
SHOWN = "_llmapi_kit_was_shown"
HINT = "%tb in a new cell shows the whole traceback."


def render(error: BaseException) -> list[str]:
    """The lines to show for an error: in short the first time, whole from then on."""
    shell = _shell()
    if getattr(error, SHOWN, None) is error.__traceback__ is not None:
        return _whole(error, shell)
    setattr(error, SHOWN, error.__traceback__)  # an error may be raised again, and then it is short again
    lines = [f"{RED}{type(error).__name__}{PLAIN}: {error}", ""]
    return [*lines, *_line_of_the_cell(error, shell), HINT]


def _shell() -> Any:
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def _whole(error: BaseException, shell: Any) -> list[str]:
    if shell is None:
        return traceback.format_exception(error)
    lines: list[str] = shell.InteractiveTB.structured_traceback(type(error), error, error.__traceback__)
    return lines


def _line_of_the_cell(error: BaseException, shell: Any) -> list[str]:
    """Where in the notebook it came about: the innermost line that stands in a cell."""
    name_of = getattr(getattr(shell, "compile", None), "format_code_name", None)
    if name_of is None:
        return []
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        cell = name_of(frame.f_code.co_filename)
        if cell is not None:
            text = linecache.getline(frame.f_code.co_filename, line).strip()
            return [f"{' '.join(cell)}, line {line}: {text}"]
    return []
