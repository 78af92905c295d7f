"""The generations that a server works on, as whoever runs it sees them: a list, and the power to end one.

Reading may be done from any thread; what is read is a copy.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from llmapi_kit.api.timed_events import TimedEvents

RequestState = Literal["waiting", "queued", "running"]


@dataclass(frozen=True, slots=True)
class RunningRequest:
    """One generation under way.

    Attributes:
        id: what the answer carries as ``id``, and what `llmapi_kit.server.server.Server.cancel` takes.
        key: the name of the key that it came with: "owner" for the server's own.
        route: method and path.
        model: that answers.
        state: ``waiting`` until the model takes it, ``queued`` until its first token, then ``running``.
        prompt_tokens: length of the prompt; 0 before it is known.
        completion_tokens: tokens made so far.
        seconds: since it came.
    """

    id: str
    key: str
    route: str
    model: str
    state: RequestState
    prompt_tokens: int
    completion_tokens: int
    seconds: float


def running_requests(active: Iterable[TimedEvents]) -> list[RunningRequest]:
    """What is under way, the oldest first."""
    now = time.monotonic()
    # list() copies a set without letting another thread in
    return [_seen(events, now) for events in sorted(list(active), key=lambda events: events.started_at)]  # noqa: C414


def _seen(events: TimedEvents, now: float) -> RunningRequest:
    state: RequestState = "running" if events.num_tokens else "queued" if events.is_accepted else "waiting"
    return RunningRequest(
        id=events.id,
        key="none" if events.request is None else events.request.key,
        route=events.request.route if events.request is not None else "",
        model=events.model,
        state=state,
        prompt_tokens=events.num_prompt_tokens,
        completion_tokens=events.num_tokens,
        seconds=round(now - events.started_at, 3),
    )
