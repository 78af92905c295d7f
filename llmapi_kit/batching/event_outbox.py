"""The events of a step, until they are handed over in one call; and what the last event of a request sets free.

Engine thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from llmapi_kit.batching.counters import Counters
from llmapi_kit.batching.draft_model import DraftModel
from llmapi_kit.batching.request import Request
from llmapi_kit.batching.scheduler import Scheduler
from llmapi_kit.errors import GenerationError, RequestError
from llmapi_kit.runners.base import Runner
from llmapi_kit.types import Delta, Embedded, Event, Failed, Finished

logger = logging.getLogger(__name__)

StepEvents = list[tuple[Request, Event]]


class EventOutbox:
    """Sees to it that each request gets exactly one terminal event, and frees its slots with that.

    Args:
        deliver: see `BatchingLoop`.
        scheduler: gives slots back.
        runner: frees their memory.
        counters: counts requests.
        draft: whose memory is freed as well.
    """

    def __init__(
        self,
        deliver: Callable[[StepEvents], None],
        scheduler: Scheduler,
        runner: Runner,
        counters: Counters,
        draft: DraftModel | None,
    ) -> None:
        self._deliver = deliver
        self._scheduler = scheduler
        self._runner = runner
        self._counters = counters
        self._draft = draft
        self._events: StepEvents = []

    def emit(self, request: Request, event: Event) -> None:
        """Hand out an event; after its last one a request is over and its slots are free."""
        if request.is_done:
            return
        self._events.append((request, event))
        if isinstance(event, Delta):
            return
        if isinstance(event, Failed):
            self._counters.stats.num_failed += 1
        elif isinstance(event, Finished | Embedded):
            if event.index < request.last_index:
                return
            self._counters.stats.num_finished += 1
        else:
            return
        self.retire(request)

    def fail(self, request: Request, exc: Exception) -> None:
        """End a request, with its whole beam search if it is part of one, as computing it raised."""
        request = request.leader
        if isinstance(exc, RequestError):
            self.emit(request, Failed(exc))
            return
        logger.error("Request %s failed in the model", request.id, exc_info=exc)
        message = f"The model failed on this request: {type(exc).__name__}: {exc}"
        self.emit(request, Failed(GenerationError(message)))

    def retire(self, request: Request) -> None:
        """Free the slots of a request, which gets no more events."""
        for member in request.beams.members if request.beams else (request,):
            member.is_done = True
            if member is not request and member.slot is None:
                continue  # a beam of a search that still waits
            slot = self._scheduler.remove(member)
            if slot is not None:
                self._runner.free(slot)
                if self._draft is not None:
                    self._draft.free(slot)

    def flush(self) -> None:
        """Give the events of the last step away."""
        events, self._events = self._events, []
        if events:
            self._deliver(events)
