"""An engine's events under the server's time limits, and under its power to end them.

Wraps any engine, so a model that hangs ends its requests in an error instead of holding its clients.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from llmapi_kit.api.request_record import current_request
from llmapi_kit.config import Settings
from llmapi_kit.errors import RequestError, RequestTimeoutError
from llmapi_kit.types import Accepted, Delta, Event, Failed


class TimedEvents:
    """Iterates over events; after a deadline the next one is `Failed`.

    One timer a phase (accepted, first token, complete) and none a token. Iterate and close it on one event loop;
    closing it, or running to its end, closes the engine's generator.

    From the first text on, one task has to iterate.

    Args:
        events: from `Engine.generate`.
        settings: the limits.
        request_id: what the answer carries as ``id``.
        model: that answers.

    Attributes:
        request: the HTTP request that it answers; None for none.
        started_at: monotonic time.
        is_accepted: whether the model took it.
        num_prompt_tokens: as the model said when it did.
        num_tokens: that were made so far.
        first_token_s: after how long the first one was there; None before it is.
    """

    def __init__(
        self, events: AsyncGenerator[Event, None], settings: Settings, *, request_id: str = "", model: str = ""
    ) -> None:
        self.id = request_id
        self.model = model
        self.request = current_request.get()
        self.started_at = time.monotonic()
        self.is_accepted = False
        self.num_prompt_tokens = 0
        self.num_tokens = 0
        self.first_token_s: float | None = None
        self._events = events
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._error: RequestError | None = None
        self._consumer: asyncio.Task[object] | None = None
        self._is_waiting = False
        self._has_text = False
        self._total = self._arm(settings.total_timeout_s, "was not complete")
        self._phase = self._arm(settings.queue_timeout_s, "was not accepted by the model")

    def __aiter__(self) -> TimedEvents:
        return self

    async def __anext__(self) -> Event:
        if self._error is not None:
            return await self._fail()
        if not self._has_text:  # one task waits for the acceptance, another may stream the text
            self._consumer = asyncio.current_task()
        self._is_waiting = True
        try:
            event = await self._events.__anext__()
        except asyncio.CancelledError:
            if self._error is None:
                raise
            if self._consumer is not None and hasattr(self._consumer, "uncancel"):  # Python 3.11+
                self._consumer.uncancel()
            return await self._fail()
        finally:
            self._is_waiting = False
        if not self._has_text:
            self._note_phase(event)
        if isinstance(event, Delta):
            self.num_tokens += event.num_tokens
        return event

    def fail(self, error: RequestError) -> None:
        """Make `Failed(error)` the next event; on the event loop it is iterated on."""
        if self._error is None:
            self._error = error
            if self._is_waiting and self._consumer is not None:
                self._consumer.cancel()

    async def aclose(self) -> None:
        """Stop the generation, if it still runs."""
        self._phase.cancel()
        self._total.cancel()
        await self._events.aclose()

    def _note_phase(self, event: Event) -> None:
        """Before the first text: which timer runs from here on."""
        self._phase.cancel()
        if isinstance(event, Accepted):
            self.is_accepted = True
            self.num_prompt_tokens = event.num_prompt_tokens
            self._phase = self._arm(self._settings.first_token_timeout_s, "got no first token")
        elif isinstance(event, Delta):
            self._has_text = True
            self.first_token_s = time.monotonic() - self.started_at

    async def _fail(self) -> Failed:
        await self.aclose()
        if self._error is None:
            raise RuntimeError("no deadline has passed")
        return Failed(self._error)

    def _arm(self, timeout_s: float, what: str) -> asyncio.TimerHandle:
        return self._loop.call_later(timeout_s, self._time_out, timeout_s, what)

    def _time_out(self, timeout_s: float, what: str) -> None:
        self.fail(RequestTimeoutError(f"The request {what} within {timeout_s:g} s, so it was stopped."))
