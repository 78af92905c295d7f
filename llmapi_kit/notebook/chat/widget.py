"""The rich front end: an anywidget, where that is installed.

The page gets all of the chat in one synced trait, and an answer's pieces as messages, thirty a second at most, each
with its number: a page that lost one asks for all. What the page asks for goes into a queue, and the chat's
own thread does it; nothing is done in a callback, which Jupyter runs only between cells.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from llmapi_kit.notebook.chat.conversation import Message
from llmapi_kit.vendored import katex_css, read_vendored
from llmapi_kit.web import FOLDER as WEB

FOLDER = Path(__file__).parent
# Joined in this order: a widget's code is one module
SHARED = ("markdown.js", "dom.js", "picture_tray.js")  # with the page
OWN = ("message.js", "pane.js", "composer_pictures.js", "chat.js")
SCRIPTS = (*(WEB / name for name in SHARED), *(FOLDER / name for name in OWN))
IMPORT = re.compile(r"^import .*;\n", re.MULTILINE)  # of one part from another
STYLES = (WEB / "markdown.css", FOLDER / "chat.css")
# What renders answers, by the name the page knows it under. Sent once a page, when it asks: 700 kB that would else
# stand in every notebook that is saved with its widgets.
LIBRARIES = {
    "markdownit": "markdown-it/markdown-it.umd.min.js",
    "DOMPurify": "dompurify/purify.min.js",
    "katex": "katex/katex.min.js",
    "hljs": "highlight/highlight.min.js",
}
CATCH_UP_EVERY_S = 1.0  # while an answer grows, for pages that came late
MAX_CATCH_UP = 100_000  # characters of an answer; longer ones are sent again at their end only


class ChatWidget(anywidget.AnyWidget):
    """Shows a chat and says what its user wants.

    Args:
        state: see `llmapi_kit.notebook.chat.snapshot`.
        on_command: takes what the page asks for, and returns at once.
    """

    _esm = "\n".join(IMPORT.sub("", path.read_text(encoding="utf-8")) for path in SCRIPTS)
    _css = "\n".join(path.read_text(encoding="utf-8") for path in STYLES)
    state = traitlets.Dict().tag(sync=True)

    def __init__(self, state: dict[str, Any], on_command: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(state={**state, "version": 0})
        self._on_command = on_command
        self._lock = threading.RLock()
        self._version = self._num_deltas = 0
        self._sent: dict[str, tuple[int, int]] = {}
        self._caught_up_at = 0.0
        self.on_msg(self._hear)

    @property
    def widget(self) -> ChatWidget:
        """See `FrontEnd.widget`."""
        return self

    def show_state(self, full_state: Callable[[], dict[str, Any]]) -> None:
        """Show all of the chat anew."""
        with self._lock:
            state = full_state()
            self._sent = {
                message["id"]: (len(message["content"]), len(message["reasoning"]))
                for pane in state["panes"]
                for message in pane["messages"]
            }
            self._version, self._num_deltas = self._version + 1, 0
            self._caught_up_at = time.monotonic()
            self.state = {**state, "version": self._version}

    def show_growth(self, message: Message, full_state: Callable[[], dict[str, Any]]) -> None:
        """Append what an answer grew by."""
        content, reasoning = message.content, message.reasoning
        with self._lock:
            if time.monotonic() - self._caught_up_at > CATCH_UP_EVERY_S and len(content) < MAX_CATCH_UP:
                self.show_state(full_state)
                return
            at = self._sent.get(message.id, (0, 0))
            self._sent[message.id] = (len(content), len(reasoning))
            place = {"kind": "delta", "version": self._version, "number": self._num_deltas, "id": message.id}
            self._num_deltas += 1
            self.send({**place, "content": content[at[0] :], "reasoning": reasoning[at[1] :]})

    def answer(self, command: dict[str, Any], **content: Any) -> None:
        """Answer the page that sent a command."""
        self.send({"kind": "answer", "request": command.get("request"), **content})

    def send_libraries(self, command: dict[str, Any]) -> None:
        """Give the page what renders answers."""
        names = [*LIBRARIES, "katexCss"]
        texts = [*(read_vendored(path) for path in LIBRARIES.values()), katex_css()]
        self.send(
            {"kind": "answer", "request": command.get("request"), "names": names},
            buffers=[text.encode() for text in texts],
        )

    def __repr__(self) -> str:
        return "A chat, where a kernel runs. What was said stands below."  # shown where there are no widgets

    def _hear(self, widget: object, message: Any, buffers: Any) -> None:
        """Nothing may be raised here: no cell would show it."""
        if isinstance(message, dict) and isinstance(message.get("kind"), str):
            self._on_command({**message, "buffers": buffers})
