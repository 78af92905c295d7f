"""An output that is plain HTML where it is saved, and alive where it is shown by a page with this kernel.

What a cell displays is HTML alone. Beside it there is a widget that is never displayed: its script finds the HTML in
the page, by a class that nothing else has, and puts something alive in its place. So a saved notebook, an exported one
and a page without a kernel show the HTML, and no "Error displaying widget" (jupyterlab_widgets shows that in place of
every widget whose kernel is gone). Where the front-end keeps outputs in frames of their own, as VS Code and Colab do,
the widget is displayed, with the HTML beside it for all others.

Messages arrive in the kernel's main thread, and what they ask for is done in threads of its own, as a cell may be busy
there; `send` may be called from any thread. Nothing here may raise in the page's face: no cell would show it.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmapi_kit.errors import LlmApiKitError
from llmapi_kit.notebook.environment import has_anywidget, is_vscode
from llmapi_kit.places import is_colab

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

Action = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]


class LiveView:
    """What is alive of an output; nothing where anywidget is not installed or does not load.

    Args:
        scripts: paths of JavaScript, read as one module; the last exports what `bringToLife` returns.
        styles: paths of style sheets.
        state: what a page that comes to see it is told first.
        actions: what a page may ask for, by name; each gets the message and returns what to answer.

    Attributes:
        place: the class of the HTML element that is brought to life.
        is_heard: whether a page has answered yet.
    """

    def __init__(
        self,
        scripts: Sequence[Path | str],
        styles: Sequence[Path | str],
        *,
        state: Callable[[], Mapping[str, Any]],
        actions: Mapping[str, Action],
    ) -> None:
        self.place = f"llmapi-kit-{secrets.token_hex(6)}"
        self.is_heard = False
        self._in_sight: dict[str, bool] = {}  # by page
        self.visibility_changed = threading.Event()
        self._state = state
        self._actions = actions
        self._widget = _make_widget(self.place, [FOLDER / "live_view.js", *scripts], styles)
        if self._widget is not None:
            self._widget.on_msg(self._hear)

    @property
    def is_alive(self) -> bool:
        """Whether there can be anything but HTML."""
        return self._widget is not None

    @property
    def is_visible(self) -> bool:
        """Whether a page has it in sight; also before any has said so."""
        return not self._in_sight or any(self._in_sight.values())

    def bundle(self, text: str, html: str) -> dict[str, Any]:
        """What a cell displays."""
        bundle: dict[str, Any] = {"text/plain": text, "text/html": html}
        if self._widget is not None and (is_vscode() or is_colab()):
            bundle[WIDGET_VIEW] = {"version_major": 2, "version_minor": 0, "model_id": self._widget.model_id}
        return bundle

    def send_state(self) -> None:
        """Tell every page how it is now."""
        self.send({"kind": "state", "state": self._state()})

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message to every page that shows it."""
        if self._widget is not None:
            try:
                self._widget.send(dict(message))
            except Exception:  # the kernel is going down, and its sockets are closed
                logger.debug("A page could not be told something", exc_info=True)

    def close(self, text: str) -> None:
        """End it; the widget would stay in memory otherwise.

        Args:
            text: why, for the pages that show it.
        """
        self.send({"kind": "end", "text": text})
        widget, self._widget = self._widget, None
        if widget is not None:
            widget.close()

    def _hear(self, widget: object, message: Any, buffers: object) -> None:
        if not isinstance(message, dict):
            return
        kind = message.get("kind")
        if kind == "hello":
            self.is_heard = True
            self.send_state()
        elif kind == "visible":
            self._in_sight[str(message.get("page"))] = bool(message.get("value"))
            self.visibility_changed.set()
        elif kind == "do" and message.get("action") in self._actions:
            threading.Thread(target=self._act, args=(message,), name="llmapi_kit view", daemon=True).start()

    def _act(self, message: Mapping[str, Any]) -> None:
        request = message.get("request")
        try:
            answer = self._actions[message["action"]](message) or {}
            self.send({"kind": "done", "request": request, **answer})
        except LlmApiKitError as exc:
            self.send({"kind": "failed", "request": request, "text": str(exc)})
        except Exception as exc:
            logger.exception("What a page asked for failed")
            self.send({"kind": "failed", "request": request, "text": f"{type(exc).__name__}: {exc}"})
        else:
            self.send_state()


def _make_widget(place: str, scripts: Sequence[Path | str], styles: Sequence[Path | str]) -> Any:
    """The widget; None where it can't be made, as everything does without it."""
    if not has_anywidget():
        return None
    try:
        import anywidget
        import traitlets

        if is_colab():
            from google.colab import output  # which shows widgets of third parties only when told so

            output.enable_custom_widget_manager()

        class LiveViewWidget(anywidget.AnyWidget):
            _esm = "\n".join(_read(each) for each in scripts)
            _css = "\n".join(_read(each) for each in styles)
            place = traitlets.Unicode().tag(sync=True)

        return LiveViewWidget(place=place)
    except Exception as exc:  # a front-end library that does not match must not hide the server
        logger.warning("Outputs stay plain HTML, as anywidget does not load: %s", exc)
        return None


def _read(source: Path | str) -> str:
    """The text of a file, or the text itself."""
    return source.read_text(encoding="utf-8") if isinstance(source, Path) else source
