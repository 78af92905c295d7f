"""Registers with IPython how the kit's objects look in a notebook. Called when the kit is first used there.

Imports nothing heavy: the card and what it needs are imported when a server is shown. In a terminal, an IPython
terminal included, a server stays plain text.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from llmapi_kit.notebook.environment import is_jupyter_kernel

if TYPE_CHECKING:
    from llmapi_kit.server.server import Server


def install() -> None:
    """Teach the running IPython shell to show a `Server` as a card; does nothing outside of a notebook kernel.

    Safe to call again.
    """
    if is_jupyter_kernel():
        formatter = sys.modules["IPython"].get_ipython().display_formatter.ipython_display_formatter
        formatter.for_type_by_name("llmapi_kit.server.server", "Server", show_server)


def show_server(server: Server) -> None:
    """Show a server's card in the cell that runs."""
    from llmapi_kit.notebook.live_card import show

    show(server)
