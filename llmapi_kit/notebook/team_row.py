"""The team of a server's card in core ipywidgets: who has a key, and buttons to pause, resume and revoke one.

An invitation is not made here: some front ends save what widgets show with the notebook, and its link is a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from html import escape

from llmapi_kit import tables
from llmapi_kit.api.caller import OWNER
from llmapi_kit.notebook.plain_buttons import PlainButtons
from llmapi_kit.notebook.team import Member, team_summary

KEY_ACTIONS = ("pause", "resume", "revoke")
NOBODY = ("Nobody has a key yet.", "")
HEAD = ("Key", "State", "On now", "Requests today", "Tokens today")
HINT = '<div>server.invite("name").url is a link that gives one person a key. Don\'t save it with the notebook.</div>'


class TeamRow(PlainButtons):
    """What a card has where no script runs.

    Args:
        change: pauses, resumes or revokes the key of a name.
    """

    def __init__(self, change: Callable[[str, str], None]) -> None:
        import ipywidgets

        self._table = ipywidgets.HTML()
        self._names = ipywidgets.Dropdown(description="Teammate", options=[NOBODY])
        self._states: dict[str, str] = {}
        super().__init__(
            {name.capitalize(): partial(self._change, change, name) for name in KEY_ACTIONS},
            before=[self._table, self._names],
        )
        self._table.layout.width = "100%"
        self._names.observe(lambda _: self._enable(), "value")
        self.update([])

    def update(self, members: Sequence[Member]) -> None:
        """List who has a key; who was chosen stays so while there is the key."""
        self._table.value = _table(members)
        self._states = {each.name: each.state for each in members if each.name != OWNER}
        chosen = self._names.value
        options = [(name, name) for name in self._states] or [NOBODY]
        if list(self._names.options) != options:
            self._names.options = options
            self._names.value = chosen if chosen in self._states else options[0][1]
        self._enable()

    def _enable(self) -> None:
        state = self._states.get(self._names.value)
        self.enable("Pause", state == "active")
        self.enable("Resume", state == "paused")
        self.enable("Revoke", state is not None)

    def _change(self, change: Callable[[str, str], None], action: str) -> None:
        change(action, self._names.value)


def _table(members: Sequence[Member]) -> str:
    if not members:
        return ""
    body = (
        (each.name, each.state, tables.count(each.running), tables.count(each.requests), tables.count(each.tokens))
        for each in members
    )
    return f"<div>{escape(team_summary(members))}</div>{tables.table_html(HEAD, body)}{HINT}"
