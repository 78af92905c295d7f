"""Who has a key of a server, who is on now and what each used today, as its card shows it.

Content only: `llmapi_kit.notebook.live_card` asks for it on threads of its own, and sends it to pages.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llmapi_kit.api.caller import OWNER
from llmapi_kit.errors import StoreError

if TYPE_CHECKING:
    from llmapi_kit.server.server import Server

logger = logging.getLogger(__name__)

READ_EVERY_S = 5.0  # from the database
MAX_NAMES = 3  # in the summary
SHOWN = ("active", "paused", "invited")


@dataclass(frozen=True, slots=True)
class Member:
    """A key that opens, or may open later.

    Attributes:
        name: of the key; "owner" for the server's own.
        state: ``active``, ``paused`` or ``invited``.
        running: its generations under way.
        requests: of today, in UTC.
        tokens: of today, of prompts and answers.
    """

    name: str
    state: str
    running: int = 0
    requests: int = 0
    tokens: int = 0


class Team:
    """The keys of one server, as of a few seconds ago; who is on is as of now."""

    def __init__(self) -> None:
        self._members: list[Member] = []
        self._read_at = float("-inf")

    def expire(self) -> None:
        """Have the next look ask the database again."""
        self._read_at = float("-inf")

    def look(self, server: Server) -> tuple[Member, ...]:
        """The owner first; empty where no key is asked for, and while the server does not run."""
        if server.api_key is None or not server.is_running:
            self.expire()
            return ()
        if time.monotonic() - self._read_at >= READ_EVERY_S:
            self._read_at = time.monotonic()
            self._read(server)
        running = Counter(request.key for request in server.requests())
        return tuple(
            Member(each.name, each.state, running[each.name], each.requests, each.tokens) for each in self._members
        )

    def _read(self, server: Server) -> None:
        try:
            used, keys = server.keys.usage(days=1), server.keys.list()
        except StoreError:  # the figures of before stay until the database answers again
            logger.warning("The keys could not be read for the card", exc_info=True)
            return
        states = ["active", *(key["state"] for key in keys)]
        rows = zip(used, states, strict=False)  # in one order; a key that was made in between comes with the next look
        self._members = [
            Member(row["name"], state, requests=row["requests"], tokens=row["tokens"])
            for row, state in rows
            if state in SHOWN
        ]


def team_content(members: Sequence[Member]) -> dict[str, Any] | None:
    """What a page is told; None where there are no keys."""
    if not members:
        return None
    most = max(member.tokens for member in members) or 1
    return {
        "summary": team_summary(members),
        "members": [{**asdict(each), "isOwner": each.name == OWNER, "share": each.tokens / most} for each in members],
    }


def team_summary(members: Sequence[Member]) -> str:
    """A line for people."""
    num = sum(each.name != OWNER for each in members)
    keys = {0: "no keys for teammates yet", 1: "1 teammate"}.get(num, f"{num} teammates")
    on_now = [each.name for each in members if each.running]
    names = ", ".join(on_now[:MAX_NAMES]) + (" and others" if len(on_now) > MAX_NAMES else "")
    return f"Team: {keys}; {names} on now" if on_now else f"Team: {keys}"
