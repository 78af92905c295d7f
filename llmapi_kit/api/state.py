"""What every request handler needs: engines, key, settings, and whether the server still takes requests."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from starlette.requests import Request

from llmapi_kit.api.auth import KeyCheck
from llmapi_kit.api.caller import Caller
from llmapi_kit.api.limiter import Admission, Limiter
from llmapi_kit.api.request_log import RequestLog
from llmapi_kit.api.request_record import current_request
from llmapi_kit.api.timed_events import TimedEvents
from llmapi_kit.config import Settings
from llmapi_kit.engines.catalog import Catalog
from llmapi_kit.errors import EngineUnavailableError, RequestCancelledError, RequestError
from llmapi_kit.store.counts import Counts

if TYPE_CHECKING:
    from llmapi_kit.api.invitation_exchange import Invitations
    from llmapi_kit.api.variants import Variant
    from llmapi_kit.sessions.conversation import Conversations
    from llmapi_kit.store.store import Store  # a cell that only loads a model should not wait for SQLAlchemy

MAX_FIRST_TOKEN_TIMES = 1024


@dataclass(slots=True)
class ApiState:
    """Shared by all requests of one server.

    Attributes:
        catalog: who answers.
        key_check: who may ask.
        settings: limits and timeouts.
        store: what outlives the server; whoever opened it closes it.
        instance: names this server, so that a client can tell it from another one on the same port.
        hosts: names this server may be called by in the Host header; empty means any.
        public_hosts: those of them that a tunnel answers to; routes for this machine only are closed there.
        is_draining: set while the server stops: nothing new is taken.
        active: generations under way; changed on the server's event loop only.
        first_token_times_s: how long the latest generations waited for their first token.
        num_first_tokens: how many generations had one, so that the new ones of those times can be told.
        request_log: writes a line for each request; None for none.
        conversations: sessions, where the setting `compat` has them.
        variants: by path, what else than the route there may answer; see `llmapi_kit.api.variants.Variant`.
        started_at: Unix time.
        invitations: exchanges them for keys; None where there are none.
        limiter: what each key may do in a minute, at once and in all.
        tunnel: how the tunnel is, in words for `GET /v1/status`; None without one.
    """

    catalog: Catalog
    key_check: KeyCheck
    settings: Settings
    store: Store
    instance: str = field(default_factory=lambda: secrets.token_hex(8))
    hosts: Sequence[str] = ()
    public_hosts: Sequence[str] = ()
    is_draining: bool = False
    active: set[TimedEvents] = field(default_factory=set)
    first_token_times_s: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_FIRST_TOKEN_TIMES))
    num_first_tokens: int = 0
    request_log: RequestLog | None = None
    conversations: Conversations | None = None
    variants: dict[str, list[Variant]] = field(default_factory=dict)
    started_at: float = field(default_factory=time.time)
    invitations: Invitations | None = None
    limiter: Limiter = field(default_factory=Limiter)
    tunnel: Callable[[], dict[str, str | None] | None] = lambda: None

    @property
    def caller(self) -> Caller:
        """Who sent the current request."""
        return self.key_check.caller

    @property
    def max_body_bytes(self) -> int:
        """Size that a body may have: more where a model takes pictures, which come in it."""
        settings = self.settings
        sees = any("vision" in engine.info.capabilities for engine in self.catalog.all())
        return max(settings.max_body_bytes, settings.max_image_body_bytes) if sees else settings.max_body_bytes

    def count_usage(self, model: str, counts: Counts) -> None:
        """Count what the caller's key used; waits for nothing."""
        if (record := current_request.get()) is not None:
            record.model = model
            record.prompt_tokens += counts.prompt_tokens
            record.completion_tokens += counts.completion_tokens
        self.store.usage.count(self.caller.id, model, counts)

    async def admit(self, estimate: Callable[[], int]) -> Admission | None:
        """Let the current request be answered by an engine; None where its key has no limits.

        Args:
            estimate: tells about how many tokens it takes.

        Raises:
            RequestError: the server stops, or the key was closed, or it has to wait or has used what it may.
        """
        self.check_open()
        admission = self.limiter.admit(self.caller, estimate)
        if admission is not None:
            await self.limiter.confirm(admission)
            try:
                self.check_open()  # once more, as that may have waited for a database
            except RequestError:
                admission.settle(0)
                raise
        return admission

    @contextlib.asynccontextmanager
    async def counting(self, model: str, estimate: Callable[[], int]) -> AsyncIterator[Counts]:
        """Count one request that an engine answers as a whole, unless it refuses it; the block adds what was used.

        Args:
            model: that answers.
            estimate: tells about how many tokens it takes.

        Raises:
            RequestError: see `admit`.
        """
        admission = await self.admit(estimate)
        counts = Counts(requests=1)
        try:
            yield counts
        except asyncio.CancelledError:
            counts.cancelled = 1
            raise
        except Exception as exc:
            is_refused = isinstance(exc, RequestError) and exc.status < 500
            counts.requests, counts.failed = (0, 0) if is_refused else (1, 1)
            raise
        finally:
            if counts.requests:
                self.count_usage(model, counts)
            if admission is not None:
                admission.settle(counts.tokens)

    def forget(self, events: TimedEvents) -> None:
        """A generation is over. On the event loop only; safe to call twice."""
        if events in self.active:
            self.active.discard(events)
            if events.first_token_s is not None:
                self.first_token_times_s.append(events.first_token_s)
                self.num_first_tokens += 1

    def cancel(self, request_id: str) -> None:
        """End a generation that is under way, if it still is. On the event loop only."""
        for events in list(self.active):
            if events.id == request_id:
                events.fail(RequestCancelledError("The request was cancelled by whoever runs this server."))

    def fail_refused(self) -> None:
        """End what is under way for keys that open no more, in an error that says why. On the event loop only."""
        for events in list(self.active):
            caller = None if events.request is None else events.request.caller
            if caller is not None and (refusal := self.key_check.refusal(caller)) is not None:
                events.fail(refusal)

    def fail_active(self, why: str = "The server was stopped.") -> None:
        """End every request under way in an error that says why. On the event loop only."""
        self.catalog.stop_waiting()
        for events in list(self.active):
            events.fail(EngineUnavailableError(why))

    def check_open(self) -> None:
        """Raise what keeps a request from being begun: the server stops, or the key was closed while it waited."""
        if self.is_draining:
            raise EngineUnavailableError("The server is stopping and takes no new requests.", retry_after_s=5)
        if (refusal := self.key_check.refusal(self.caller)) is not None:
            raise refusal


def state_of(request: Request) -> ApiState:
    """The state of the application a request came to."""
    return cast(ApiState, request.app.state.api)
