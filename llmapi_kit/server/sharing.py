"""What a server offers to whoever shares it with a team: keys and invitations, and that a change of them takes effect.

`llmapi_kit.server.server.Server` is a `SharedServer`. The methods may be called from any thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol

from typing_extensions import Unpack

from llmapi_kit import tables
from llmapi_kit.api.invitation_exchange import Invitations
from llmapi_kit.api.state import ApiState
from llmapi_kit.errors import ConfigError
from llmapi_kit.server.key_watch import KeyWatch
from llmapi_kit.server.keys import INVITATION_S, KeyOptions, Keys, scope_of
from llmapi_kit.server.new_key import Invitation
from llmapi_kit.store.stored_key import StoredKey


class SharedServer:
    """A server with keys for teammates.

    Attributes:
        keys: the teammates' keys.
    """

    keys: Keys

    def invite(
        self, name: str, *, open_for: float | timedelta = INVITATION_S, **options: Unpack[KeyOptions]
    ) -> Invitation:
        """A link that gives one person a key: whoever opens it first gets it, once.

        The link leads to the public URL where there is one, else to this machine. Its secret stands behind the #,
        which browsers send to nobody.

        Args:
            name: who is invited; the key will have that name.
            open_for: how long the link can be opened, in seconds or as a `timedelta`; a week unless given.
            options: what the key may do; see `llmapi_kit.server.keys.Keys.create`. ``expires`` counts from now.

        Raises:
            ConfigError: as `llmapi_kit.server.keys.Keys.create`, or somebody of that name is invited already.
            StoreError: the database failed.

        Examples:
            >>> server = kit.launch(kit.load("mock"), port=0)
            >>> invitation = server.invite("alice", rpm=20, budget=100_000, expires=86400)
            >>> invitation.url == f"{server.url}/#invite={invitation.code}", invitation.code in repr(invitation)
            (True, False)
            >>> server.keys.withdraw("alice")
            >>> server.stop()
        """
        return self.keys.invite(name, open_for=open_for, **options)

    def invitations(self) -> tables.Table[dict[str, Any]]:
        """The invitations that nobody has taken yet: a list, and a table in a cell. None has its secret.

        `server.keys.withdraw(name)` closes one.

        Examples:
            >>> server = kit.launch(kit.load("mock"), port=0, name="list-of-invitations")
            >>> invitation = server.invite("bob")
            >>> [row["name"] for row in server.invitations()]
            ['bob']
            >>> server.keys.withdraw("bob")
            >>> server.invitations()
            []
            >>> server.stop()
        """
        return self.keys.invitations()


class _Shareable(Protocol):
    """What a server tells of itself."""

    name: str | None
    api_key: str | None

    @property
    def url(self) -> str: ...
    @property
    def public_url(self) -> str | None: ...
    @property
    def base_url(self) -> str: ...
    @property
    def models(self) -> Sequence[str]: ...
    @property
    def aliases(self) -> Mapping[str, str]: ...


def open_keys(
    server: _Shareable, state: ApiState, call_soon: Callable[[Callable[[], None]], object]
) -> tuple[Keys, KeyWatch]:
    """The keys of a server, and who watches them; what is in the database is known when it returns.

    Args:
        server: whose they are; without a name its keys end with it.
        state: of its API.
        call_soon: calls something on its event loop.

    Raises:
        StoreError: the database failed.
    """
    scope = scope_of(server.name, state.instance)
    store, ring = state.store.keys(scope), state.key_check.ring
    if server.name is not None and state.store.key_counts is not None:
        from llmapi_kit.api.shared_counts import SharedCounts  # SQLAlchemy, which is imported where there is a store

        state.limiter.shared = SharedCounts(state.store.key_counts)
    watch = KeyWatch(store, ring, lambda: call_soon(state.fail_refused), count=lambda keys: _count(state, keys))
    state.invitations = Invitations(ring, store.exchange, watch.look)

    def check() -> None:
        if server.api_key is None:
            raise ConfigError(
                "The server asks for no key, so there is nobody to give one. Launch it without api_key=False."
            )

    keys = Keys(
        state.store,
        scope,
        models=lambda: server.models,
        aliases=lambda: server.aliases,
        base_url=lambda: server.base_url,
        page_url=lambda: server.public_url or server.url,
        owner_id=lambda: state.key_check.owner.id,
        check=check,
        on_change=watch.look,
    )
    return keys, watch


def _count(state: ApiState, keys: Sequence[StoredKey]) -> None:
    """Have the limits count what was used before this server began, and elsewhere; and tell others what runs here."""
    if state.limiter.shared is not None:
        state.limiter.shared.renew()
    ids = [key.id for key in keys if key.limits.budget is not None and key.revoked_at is None]
    here = state.limiter.used_here()  # before the database is asked, which then knows all of it
    used = state.store.usage.totals_sync(ids, 0, time.time() + 1) if ids else {}
    state.limiter.set_used_elsewhere({key_id: counts.tokens - here.get(key_id, 0) for key_id, counts in used.items()})
