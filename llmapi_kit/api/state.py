"""What every request handler needs: engines, key, settings, and whether the server still takes requests."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from starlette.requests import Request

from llmapi_kit.api.auth import KeyCheck
from llmapi_kit.api.completion_store import CompletionStore, MemoryCompletionStore
from llmapi_kit.api.timed_events import TimedEvents
from llmapi_kit.config import Settings
from llmapi_kit.engines.catalog import Catalog
from llmapi_kit.errors import EngineUnavailableError

if TYPE_CHECKING:
    from llmapi_kit.api.routes import Variant


@dataclass(slots=True)
class ApiState:
    """Shared by all requests of one server.

    Attributes:
        catalog: who answers.
        key_check: who may ask.
        settings: limits and timeouts.
        instance: names this server, so that a client can tell it from another one on the same port.
        hosts: names this server may be called by in the Host header; empty means any.
        public_hosts: those of them that a tunnel answers to; routes for this machine only are closed there.
        is_draining: set while the server stops: nothing new is taken.
        active: generations under way; touched on the server's event loop only.
        completions: those that clients asked to store.
        variants: by path, what else than the route there may answer; see `llmapi_kit.api.routes.Variant`.
    """

    catalog: Catalog
    key_check: KeyCheck
    settings: Settings
    instance: str = field(default_factory=lambda: secrets.token_hex(8))
    hosts: Sequence[str] = ()
    public_hosts: Sequence[str] = ()
    is_draining: bool = False
    active: set[TimedEvents] = field(default_factory=set)
    completions: CompletionStore = field(init=False)
    variants: dict[str, list[Variant]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make what follows from the settings."""
        self.completions = MemoryCompletionStore(self.settings.max_stored_completions, self.settings.max_stored_bytes)

    def fail_active(self) -> None:
        """End every generation under way in an error that says the server stopped. On the event loop only."""
        for events in list(self.active):
            events.fail(EngineUnavailableError("The server was stopped."))

    def check_open(self) -> None:
        """Raise `EngineUnavailableError` while the server stops."""
        if self.is_draining:
            raise EngineUnavailableError("The server is stopping and takes no new requests.", retry_after_s=5)


def state_of(request: Request) -> ApiState:
    """The state of the application a request came to."""
    return cast(ApiState, request.app.state.api)
