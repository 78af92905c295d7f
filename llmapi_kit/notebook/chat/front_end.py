"""Which widget shows a chat: the rich one where anywidget is installed, else one of core ipywidgets, else none."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from llmapi_kit.errors import MissingDependencyError
from llmapi_kit.notebook.chat.conversation import Message
from llmapi_kit.notebook.environment import has_anywidget, version_of

logger = logging.getLogger(__name__)

State = dict[str, Any]
Command = dict[str, Any]


class FrontEnd(Protocol):
    """Shows a chat. Its methods may be called from any thread but `widget`'s creation, which is a cell's."""

    @property
    def widget(self) -> Any:
        """What to display."""
        ...

    def show_state(self, full_state: Callable[[], State]) -> None:
        """Show all of the chat anew."""
        ...

    def show_growth(self, message: Message, full_state: Callable[[], State]) -> None:
        """Show that an answer grew."""
        ...

    def answer(self, command: Command, **content: Any) -> None:
        """Say what came of a command: nothing more, an ``error``, or a ``text``."""
        ...

    def send_libraries(self, command: Command) -> None:
        """Give a page what renders answers."""
        ...

    def close(self) -> None:
        """Take it off the page."""
        ...


def make_front_end(kind: str, state: State, on_command: Callable[[Command], None]) -> FrontEnd | None:
    """A front end of a kind; of ``auto``, the first that loads, or None.

    Raises:
        MissingDependencyError: the kind that is asked for can't be had.
    """
    if kind == "rich" and not has_anywidget():
        raise MissingDependencyError("anywidget", "notebook", "The rich chat")
    if kind == "plain" and version_of("ipywidgets") is None:
        raise MissingDependencyError("ipywidgets", "notebook", "The plain chat")
    if kind != "plain" and has_anywidget():
        try:
            from llmapi_kit.notebook.chat.widget import ChatWidget

            return ChatWidget(state, on_command)
        except Exception as exc:  # a front-end library that does not match must not hide the chat
            if kind == "rich":
                raise
            logger.warning("The rich chat can't be shown (%s); this is the plain one", exc)
    if version_of("ipywidgets") is not None:
        from llmapi_kit.notebook.chat.plain import PlainChat

        return PlainChat(state, on_command)
    return None
