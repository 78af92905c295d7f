"""How the kit's objects and its work look here: in a notebook or in a terminal. Called when the kit is first used.

Imports nothing heavy: the card and what it needs are imported when a server is shown. In a terminal, an IPython
terminal included, a server stays plain text.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from llmapi_kit import presenter
from llmapi_kit.notebook.progress_display import NotebookPresenter, TerminalPresenter
from llmapi_kit.places import is_jupyter_kernel

if TYPE_CHECKING:
    from llmapi_kit.server.server import Server


def install() -> None:
    """Have a `Server` shown as a card in a notebook, and the progress of loading in a notebook or a terminal.

    The variable by which users of the Hugging Face hub switch progress bars off leaves log messages only. Safe to call
    again.
    """
    shows_progress = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS", "").upper() not in ("1", "ON", "YES", "TRUE")
    if is_jupyter_kernel():
        presenter.use(NotebookPresenter(shows_progress=shows_progress))
        formatter = sys.modules["IPython"].get_ipython().display_formatter.ipython_display_formatter
        formatter.for_type_by_name("llmapi_kit.server.server", "Server", show_server)
    elif shows_progress:
        presenter.use(TerminalPresenter())


def show_server(server: Server) -> None:
    """Show a server's card in the cell that runs."""
    from llmapi_kit.notebook.live_card import show

    show(server)
