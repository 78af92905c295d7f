"""The plain front end: core ipywidgets only, of version 7.7 or 8, for places where anywidget does not load.

Answers are rendered here, in Python, and sent whole a few times a second; formulas stay as they are written. A callback
only puts a command into the chat's queue.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ipywidgets

from llmapi_kit.notebook.chat.conversation import Message
from llmapi_kit.notebook.chat.options import SAMPLING
from llmapi_kit.notebook.chat.plain_pictures import PlainPictures
from llmapi_kit.notebook.chat.transcript import PLAIN_CLASS, columns_html

DRAW_EVERY_S = 0.15
HINT = "A button does nothing? The kernel is busy with a cell, or gone: then run this cell again."
LOG_STYLE = "max-height:30rem;overflow-y:auto;line-height:1.5"
Command = dict[str, Any]


class PlainChat:
    """See `llmapi_kit.notebook.chat.front_end.FrontEnd`.

    Args:
        state: see `llmapi_kit.notebook.chat.snapshot`.
        on_command: takes what people click, and returns at once.
    """

    def __init__(self, state: dict[str, Any], on_command: Callable[[Command], None]) -> None:
        self._on_command = on_command
        self._lock = threading.Lock()
        self._drawn_at = 0.0
        self._timer: threading.Timer | None = None
        self._drawing_thread: int | None = None
        self._state = state
        self._edited: str | None = None
        self._make_widgets()
        self._draw(state)

    @property
    def widget(self) -> Any:
        """See `FrontEnd.widget`."""
        return self._box

    def show_state(self, full_state: Callable[[], dict[str, Any]]) -> None:
        """See `FrontEnd.show_state`."""
        with self._lock:
            self._draw(full_state())

    def show_growth(self, message: Message, full_state: Callable[[], dict[str, Any]]) -> None:
        """See `FrontEnd.show_growth`. What comes too soon after the last drawing is drawn a little later."""
        left = self._drawn_at + DRAW_EVERY_S - time.monotonic()
        if left <= 0:
            self.show_state(full_state)
        elif self._timer is None or not self._timer.is_alive():
            self._timer = threading.Timer(left, self.show_state, [full_state])
            self._timer.daemon = True
            self._timer.start()

    def answer(self, command: Command, **content: Any) -> None:
        """See `FrontEnd.answer`."""
        if "error" in content and command["kind"] in ("send", "edit") and not self._input.value:
            self._input.value = command["text"]  # it was not taken
            self._pictures.put_back(command["names"], command["buffers"])
        self._note.value = str(content.get("error", ""))
        if "text" in content:
            self._exported.value = content["text"]

    def send_libraries(self, command: Command) -> None:
        """Nobody asks for them here."""

    def close(self) -> None:
        """See `FrontEnd.close`."""
        self._box.close()

    def _make_widgets(self) -> None:
        wide = ipywidgets.Layout(width="100%")
        self._log = ipywidgets.HTML(layout=wide)
        self._input = ipywidgets.Textarea(placeholder="Message", rows=2, layout=wide)
        self._note = ipywidgets.Label()
        self._pictures = PlainPictures(partial(setattr, self._note, "value"))
        self._send = self._button("Send", self._on_send, "primary")
        self._stop = self._button("Stop", lambda: self._say("stop"))
        self._retry = self._button("Retry", lambda: self._say("retry"))
        self._edit = self._button("Edit", self._on_edit)
        self._back = self._button("Previous version", lambda: self._show_branch(-1))
        self._forth = self._button("Next version", lambda: self._show_branch(1))
        self._run = self._button("Run", lambda: self._say("allow", allow=True), "primary")
        self._refuse = self._button("Don't run", lambda: self._say("allow", allow=False))
        row = ipywidgets.Layout(flex_flow="row wrap")
        buttons = [self._send, self._stop, self._retry, self._edit, self._back, self._forth, self._run, self._refuse]
        settings = self._make_settings()
        hint = ipywidgets.HTML(f'<span style="opacity:.75;font-size:90%">{HINT}</span>')
        composer = [self._pictures.widget, self._input, ipywidgets.HBox(buttons, layout=row)]
        self._box = ipywidgets.VBox([self._log, self._note, *composer, hint, settings])
        self._box.add_class(PLAIN_CLASS)

    def _make_settings(self) -> Any:
        wide = ipywidgets.Layout(width="100%")
        self._model = ipywidgets.Dropdown(description="Model", options=[])
        self._system = ipywidgets.Textarea(description="System", rows=2, layout=wide, continuous_update=False)
        self._numbers = {
            name: ipywidgets.Text(description=name, placeholder="model's own", continuous_update=False)
            for name in SAMPLING
        }
        self._exported = ipywidgets.Textarea(description="Exported", rows=4, layout=wide)
        exports = [
            self._button(title, partial(self._say, "export", format=suffix))
            for title, suffix in (("Markdown", ".md"), ("JSON", ".json"), ("Python", ".py"))
        ]
        clear = self._button("New chat", lambda: self._say("clear"))
        for name, each in {"model": self._model, "system": self._system, **self._numbers}.items():
            each.observe(partial(self._on_change, name), names="value")
        inside = [
            self._model,
            self._system,
            *self._numbers.values(),
            ipywidgets.HBox([clear, *exports]),
            self._exported,
        ]
        # No accordion: the keyboard does not reach its title
        opener = ipywidgets.ToggleButton(description="Settings and export", layout=ipywidgets.Layout(width="auto"))
        box = ipywidgets.VBox(inside, layout=ipywidgets.Layout(display="none"))
        opener.observe(lambda change: setattr(box.layout, "display", "" if change["new"] else "none"), names="value")
        return ipywidgets.VBox([opener, box])

    def _button(self, title: str, on_click: Callable[[], None], style: str = "") -> Any:
        button = ipywidgets.Button(description=title, button_style=style, tooltip=title)
        button.on_click(lambda _: on_click())
        return button

    def _say(self, kind: str, **content: Any) -> None:
        self._on_command({"kind": kind, **content})

    def _on_send(self) -> None:
        text, self._input.value = self._input.value, ""
        names, buffers = self._pictures.take()
        asked = {"text": text, "names": names, "buffers": buffers}
        if self._edited is not None:
            self._say("edit", id=self._edited, pane=0, **asked)
            self._edited = None
        else:
            self._say("send", **asked)

    def _on_edit(self) -> None:
        """Put the last question into the input; sending it then makes a branch."""
        questions = [each for each in self._state["panes"][0]["messages"] if each["role"] == "user"]
        if questions:
            self._input.value, self._edited = questions[-1]["content"], questions[-1]["id"]

    def _show_branch(self, step: int) -> None:
        message = self._last_branching()
        if message is not None and 0 <= (index := message["branch"] + step) < len(message["branches"]):
            self._say("show", id=message["branches"][index], pane=0)

    def _last_branching(self) -> dict[str, Any] | None:
        """The last message that has other versions."""
        messages = reversed(self._state["panes"][0]["messages"])
        return next((each for each in messages if len(each["branches"]) > 1), None)

    def _on_change(self, name: str, change: Any) -> None:
        value = change["new"]
        if self._drawing_thread == threading.get_ident():
            return
        if name not in SAMPLING:
            self._say("set", options={name: value})
            return
        try:
            self._say("set", options={name: float(value) if value.strip() else None})
        except ValueError:
            self._note.value = f"{name} takes a number."

    def _draw(self, state: dict[str, Any]) -> None:
        """Show a state. What is set here must not come back as a command; what people set meanwhile does."""
        self._state, self._drawn_at, self._drawing_thread = state, time.monotonic(), threading.get_ident()
        try:
            panes = state["panes"]
            shown = columns_html(panes) or "Ask something."
            attributes = f'role="log" aria-live="off" aria-label="Conversation" tabindex="0" style="{LOG_STYLE}"'
            self._log.value = f"<div {attributes}>{shown}</div>"
            self._draw_settings(panes[0])
            self._draw_buttons(panes)
            self._pictures.offer(all(pane["sees"] for pane in panes))
        finally:
            self._drawing_thread = None

    def _draw_settings(self, pane: dict[str, Any]) -> None:
        options = pane["options"]
        chosen = options["model"] or next(iter(pane["models"]), None)
        names = pane["models"] if chosen is None or chosen in pane["models"] else [chosen, *pane["models"]]
        if list(self._model.options) != names:
            self._model.options = names
        if chosen is not None and self._model.value != chosen:
            self._model.value = chosen
        self._system.value = options["system"]
        for name, each in self._numbers.items():
            each.value = "" if options[name] is None else f"{options[name]:g}" if name != "seed" else str(options[name])

    def _draw_buttons(self, panes: list[dict[str, Any]]) -> None:
        is_busy = any(pane["is_busy"] for pane in panes)
        is_waiting = any(each["status"] == "waiting" for pane in panes for each in pane["messages"][-1:])
        message = self._last_branching()
        has_answer = bool(panes[0]["messages"])
        can_go = {
            self._send: not is_busy,
            self._stop: is_busy,
            self._retry: has_answer and not is_busy,
            self._edit: has_answer and not is_busy and len(panes) == 1,
            self._back: message is not None and not is_busy and message["branch"] > 0,
            self._forth: message is not None and not is_busy and message["branch"] < len(message["branches"]) - 1,
        }
        for button, is_enabled in can_go.items():
            button.disabled = not is_enabled
        for button in (self._run, self._refuse):
            button.layout.display = "" if is_waiting else "none"
