"""Buttons below an output, of core ipywidgets 7.7 or 8, where there is no anywidget to bring the output to life.

Clicks arrive in the kernel's main thread, and what they ask for is done in threads of its own. An output with buttons
below has the class `ABOVE_CLASS`, and `HIDES_DEAD_BUTTONS` before it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

from llmapi_kit.errors import LlmApiKitError
from llmapi_kit.notebook.environment import version_of
from llmapi_kit.notebook.live_view import WIDGET_VIEW, LiveView
from llmapi_kit.notebook.stand_in import CELL

logger = logging.getLogger(__name__)

CLASS, ABOVE_CLASS = "llmapi-kit-buttons", "llmapi-kit-has-buttons"
# In a notebook that is opened again, an error message stands in place of each widget
HIDES_DEAD_BUTTONS = f"<style>{CELL}:has(.{ABOVE_CLASS}) + {CELL}:not(:has(.{CLASS})){{display:none}}</style>"


def needs_plain_buttons(view: LiveView) -> bool:
    """Whether an output is not alive, and can have buttons all the same."""
    return not view.is_alive and version_of("ipywidgets") is not None


class PlainButtons:
    """A row of buttons, and what came of the last click.

    Args:
        actions: what each button does, by its title.
        before: widgets that stand before the buttons.
    """

    def __init__(self, actions: Mapping[str, Callable[[], object]], before: Sequence[Any] = ()) -> None:
        import ipywidgets

        self._buttons = {title: ipywidgets.Button(description=title, tooltip=title) for title in actions}
        for title, button in self._buttons.items():
            button.on_click(partial(self._click, title, actions[title]))
        self._note = ipywidgets.HTML()
        row = ipywidgets.Layout(flex_flow="row wrap", align_items="center")
        self._box = ipywidgets.HBox([*before, *self._buttons.values(), self._note], layout=row)
        self._box.add_class(CLASS)

    def show(self) -> None:
        """Show them in the cell that runs."""
        from IPython import display as output

        display: Any = output.display  # untyped there
        view = {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}
        display({WIDGET_VIEW: view, "text/plain": ""}, raw=True)

    def enable(self, title: str, is_enabled: bool) -> None:
        """Say whether a button does something now."""
        self._buttons[title].disabled = not is_enabled

    def close(self) -> None:
        """Take them off the page."""
        self._box.close()

    def _click(self, title: str, action: Callable[[], object], button: object) -> None:
        self._say(f"{title} …")
        work = partial(self._act, title, action)
        threading.Thread(target=work, name=f"llmapi_kit {title.lower()}", daemon=True).start()

    def _act(self, title: str, action: Callable[[], object]) -> None:
        """Nothing may be raised here: no cell would show it."""
        try:
            action()
        except LlmApiKitError as exc:
            self._say(str(exc))
        except Exception as exc:
            logger.exception("What the button %s stands for failed", title)
            self._say(f"{type(exc).__name__}: {exc}")
        else:
            self._say("")

    def _say(self, text: str) -> None:
        self._note.value = f'<span role="status">{escape(text)}</span>'
