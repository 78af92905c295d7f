"""The chooser in a cell: a list to search, what the chosen model takes, and a button that loads it. Core widgets only.

Callbacks run in the kernel's main thread and return at once; looking up and loading happen in a plain thread, so that
the cell does not wait. Works with ipywidgets 7.7 and 8.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import ipywidgets as widgets

from llmapi_kit import kit
from llmapi_kit.checkpoints.choice import Choice
from llmapi_kit.checkpoints.needs import load_options
from llmapi_kit.checkpoints.spec import HUB_ID
from llmapi_kit.config import Settings
from llmapi_kit.errors import LlmApiKitError
from llmapi_kit.notebook.chooser import page
from llmapi_kit.notebook.chooser.entries import Entry, best_precision, of_hub
from llmapi_kit.notebook.chooser.machine import ChooserMachine
from llmapi_kit.notebook.chooser.text import as_table, parameters, presence
from llmapi_kit.notebook.progress_display import ProgressDisplay
from llmapi_kit.notebook.progress_state import ProgressState, as_html

logger = logging.getLogger(__name__)

MARKS = {"fits": "✓", "tight": "~", "too large": "✗", "not here": "✗"}
FORMATS = {"float32": "float32", "bfloat16": "bfloat16", "8bit": "8 bits", "int8": "int8", "int4": "int4"}
WIDE = {"width": "auto"}


class Chooser:
    """A choice to be made.

    Args:
        choice: changed as somebody clicks.
        entries: what there is to choose from.
        machine: beside which needs are shown.
        settings: slots, context and KV memory.
        recommended: a model and its number format; None where nothing fits.
    """

    def __init__(
        self,
        choice: Choice,
        entries: Sequence[Entry],
        machine: ChooserMachine,
        settings: Settings,
        recommended: tuple[Entry, str] | None = None,
    ) -> None:
        self.choice = choice
        self._entries = {entry.name: entry for entry in entries}
        self._machine, self._settings = machine, settings
        self._thread = threading.Thread(target=lambda: None)
        self._recommended = recommended[0].name if recommended else None
        self._make()
        self._fill()
        self._list.value = choice.name
        self._choose()

    def show(self) -> None:
        """Show it in the cell that runs."""
        from IPython import display as output

        display: Any = output.display  # untyped there
        display(self.box)
        text = as_table(list(self._entries.values()), self._machine, self._settings)
        display({"text/plain": text, "text/html": page.stand_in(text)}, raw=True)

    @property
    def is_busy(self) -> bool:
        """Whether something is being looked up or loaded."""
        return self._thread.is_alive()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until what was clicked is done."""
        self._thread.join(timeout_s)

    def _make(self) -> None:
        """The widgets, and what they do."""
        narrow = {"description_width": "initial"}
        hint = "filter, or owner/name of the hub"
        wide = widgets.Layout(flex="1 1 auto", width="auto")
        self._search = widgets.Text(placeholder=hint, description="Search", style=narrow, layout=wide)
        tall = widgets.Layout(width="auto", height="330px")
        self._list = widgets.Select(description="Models", style=narrow, rows=16, layout=tall)
        self._format = widgets.Dropdown(description="Number format", style=narrow, layout=widgets.Layout(**WIDE))
        self._detail, self._code = widgets.HTML(), widgets.HTML()
        self._status, self._progress = widgets.HTML(), widgets.HTML()
        self._load = widgets.Button(description="Load", button_style="primary", tooltip="Download and load this model")
        self._stop = widgets.Button(description="Stop download", tooltip="What is there is kept", disabled=True)
        self._ask = widgets.Button(description="Ask the hub", tooltip="Look up what is typed beside", disabled=True)
        self._search.observe(lambda change: self._fill(), "value")
        self._list.observe(lambda change: self._choose(), "value")
        self._format.observe(lambda change: self._set_format(), "value")
        self._load.on_click(lambda button: self._start(self._do_load))
        self._ask.on_click(lambda button: self._start(self._do_ask))
        self._stop.on_click(lambda button: self._stop_download())
        buttons = widgets.HBox([self._load, self._stop])
        half = widgets.Layout(flex="1 1 22rem", min_width="18rem")
        search = widgets.HBox([self._search, self._ask])
        left = widgets.VBox([search, self._list, widgets.HTML(page.marks())], layout=half)
        right = widgets.VBox([self._detail, self._format, self._code, buttons], layout=half)
        middle = widgets.HBox([left, right], layout=widgets.Layout(flex_flow="row wrap", max_width="70rem"))
        head = widgets.HTML(page.header(self._machine, self._recommended))
        self.box = widgets.VBox([head, middle, self._progress, self._status])
        self.box.add_class(page.CLASS)

    def _fill(self) -> None:
        """List what matches the search; what was chosen stays so if it is among it."""
        text = self._search.value.strip().lower()
        chosen = self._list.value
        found = [entry for entry in self._entries.values() if all(word in _words(entry) for word in text.split())]
        self._list.options = [(self._label(entry), entry.name) for entry in found]
        if chosen in {entry.name for entry in found}:
            self._list.value = chosen
        self._ask.disabled = not HUB_ID.fullmatch(self._search.value.strip())

    def _label(self, entry: Entry) -> str:
        precision = best_precision(entry, self._machine, self._settings)
        needs = entry.needs(precision, self._machine, self._settings)
        mark = MARKS[needs.verdict] if needs is not None else "?"
        here = presence(entry)
        mark = f"{mark} ★" if entry.name == self._recommended else mark
        place = "" if here == "no" else "  · here" if here == "yes" else f"  · {here}"
        return f"{mark} {entry.name}  · {parameters(entry)}{'  · gated' if entry.is_gated else ''}{place}"

    def _choose(self) -> None:
        """Show the model that is selected, in the number format that suits it."""
        entry = self._entry
        if entry is None:
            self._load.disabled = True
            self._detail.value = page.message("Nothing here has that name. A name like owner/name can be looked up.")
            return
        self._load.disabled = self.is_busy
        self._detail.value = page.detail(entry, self._machine, self._settings)
        precision = best_precision(entry, self._machine, self._settings)
        options = self._machine.precisions(entry.stored)[: None if entry.shape is not None else 1]
        self._format.options = [(FORMATS[each], each) for each in options]
        self._format.value = precision
        self._set_format()

    def _set_format(self) -> None:
        entry = self._entry
        if entry is None or self._format.value is None:
            return
        self.choice.name, self.choice.model = entry.name, None
        self.choice.options = load_options(self._format.value, self._machine.device, entry.stored)
        self._code.value = page.code_line(self.choice.code)

    @property
    def _entry(self) -> Entry | None:
        return self._entries.get(self._list.value or "")

    def _start(self, work: Callable[[], None]) -> None:
        """Do something in a thread; what goes wrong is shown here, as nothing else would show it."""
        if self.is_busy:
            return
        self._load.disabled = self._ask.disabled = True
        self._status.value = self._progress.value = ""
        self._thread = threading.Thread(target=self._work, args=(work,), name="llmapi_kit chooser", daemon=True)
        self._thread.start()

    def _work(self, work: Callable[[], None]) -> None:
        try:
            work()
        except LlmApiKitError as exc:
            self._status.value = page.message(str(exc), is_good=False)
        except Exception as exc:
            logger.exception("The chooser failed")
            self._status.value = page.message(f"{type(exc).__name__}: {exc}", is_good=False)
        finally:
            self._stop.disabled = True
            self._load.disabled = self._entry is None
            self._ask.disabled = not HUB_ID.fullmatch(self._search.value.strip())

    def _do_load(self) -> None:
        choice = Choice(self.choice.name, self.choice.options)
        self._stop.disabled = self._entries[choice.name].is_complete
        with ProgressDisplay(f"Loading {choice.name}", _HtmlScreen(self._progress), show_after_s=0):
            model = kit.load(choice)
        entry = self._entries[choice.name]
        self._entries[choice.name] = replace(
            entry, is_complete=True, here_bytes=max(entry.here_bytes, entry.size_bytes)
        )
        if (choice.name, choice.options) == (self.choice.name, self.choice.options):
            self.choice.model = model
            self._detail.value = page.detail(self._entries[choice.name], self._machine, self._settings)
        self._status.value = page.message(f"{model.name} is loaded. The line above returns it at once.")

    def _do_ask(self) -> None:
        name = self._search.value.strip()
        self._status.value = page.message(f"Asking the hub for {name} …")
        entry = of_hub(name)
        self._entries = {name: entry, **{key: each for key, each in self._entries.items() if key != name}}
        self._fill()
        self._list.value = name
        self._choose()
        self._status.value = ""

    def _stop_download(self) -> None:
        from llmapi_kit.checkpoints.download import stop_download

        stop_download(self.choice.name)


class _HtmlScreen:
    """Progress in a widget of the chooser."""

    def __init__(self, html: Any) -> None:
        self._html = html

    def draw(self, state: ProgressState) -> None:
        """See `llmapi_kit.notebook.progress_display.Screen.draw`."""
        self._html.value = as_html(state)

    end = draw


def _words(entry: Entry) -> str:
    return f"{entry.name} {entry.licence} {entry.good_for} {presence(entry)}".lower()
