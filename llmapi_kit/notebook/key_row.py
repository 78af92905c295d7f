"""The key's row under a server's card: a widget with Reveal and Copy.

No trait holds the key, so no saved notebook does: the page asks for it by a custom message and gets it as one.
Needs anywidget; `llmapi_kit.notebook.display` imports this module only where it is installed. Messages arrive in the
kernel's main thread, on some versions of ipykernel in a subshell's; the answer is sent at once from there.
"""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from llmapi_kit.client import mask
from llmapi_kit.server.server import Server

FOLDER = Path(__file__).parent


class KeyRow(anywidget.AnyWidget):
    """Shows a server's key for a while, or copies it, when somebody asks.

    Args:
        server: whose key; not kept alive by this.
    """

    _esm = (FOLDER / "key_row.js").read_text(encoding="utf-8")
    _css = (FOLDER / "key_row.css").read_text(encoding="utf-8")
    masked = traitlets.Unicode().tag(sync=True)

    def __init__(self, server: Server) -> None:
        super().__init__(masked=mask(server.api_key))
        self._server = weakref.ref(server)
        self.on_msg(self._answer)

    def _answer(self, widget: object, message: Any, buffers: object) -> None:
        """Send the key to the page that asked. Nothing may be raised here: no cell would show it."""
        if not isinstance(message, dict) or message.get("kind") != "ask":
            return
        request = message.get("request")
        server = self._server()
        if server is None or server.api_key is None or not server.is_running:
            self.send({"kind": "refused", "request": request, "text": "The server is stopped."})
        else:
            self.send({"kind": "key", "request": request, "key": server.api_key})
