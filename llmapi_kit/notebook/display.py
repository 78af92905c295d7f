"""Registers with IPython how the kit's objects and its work look. Called when the kit is first used in a notebook.

Imports nothing heavy: the card and what it needs are imported when a server is shown. In a terminal, an IPython
terminal included, a server stays plain text.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from llmapi_kit import presenter
from llmapi_kit.notebook.environment import is_jupyter_kernel
from llmapi_kit.notebook.progress_display import NotebookPresenter

if TYPE_CHECKING:
    from llmapi_kit.server.server import Server


def install() -> None:
    """Have a `Server` shown as a card, and loading in steps; does nothing outside of a notebook kernel.

    Safe to call again.
    """
    if is_jupyter_kernel():
        formatter = sys.modules["IPython"].get_ipython().display_formatter.ipython_display_formatter
        formatter.for_type_by_name("llmapi_kit.server.server", "Server", show_server)
        presenter.use(NotebookPresenter())


def show_server(server: Server) -> None:
    """Show a server's card in the cell that runs."""
    from llmapi_kit.notebook.live_card import show

    show(server)
