"""`Keys`: keys for teammates, each with limits and an end of its own.

The database has their digests; a key itself is seen once, when it is made. Knows no server: the command line changes
the keys of one that runs elsewhere with the same class. The methods may be called from any thread.
"""

from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict, Unpack

from llmapi_kit import tables
from llmapi_kit.api.auth import digest_of, new_api_key, prefix_of
from llmapi_kit.api.caller import OWNER
from llmapi_kit.config import DAY_S
from llmapi_kit.did_you_mean import did_you_mean
from llmapi_kit.errors import ConfigError
from llmapi_kit.server.new_key import Invitation, NewKey
from llmapi_kit.store.counts import Counts
from llmapi_kit.store.stored_key import KeyLimits, StoredKey

if TYPE_CHECKING:
    from llmapi_kit.store.store import Store  # a cell that only loads a model should not wait for SQLAlchemy

Moment = float | datetime | timedelta
"""A length of time from now, in seconds or as such, or a point in time."""


class KeyOptions(TypedDict, total=False):
    """What a key can be given; see `Keys.create`."""

    rpm: int | None
    tpm: int | None
    concurrency: int | None
    budget: int | None
    models: str | Sequence[str] | None
    expires: Moment | None


NUMBERS = ("rpm", "tpm", "concurrency", "budget")
INVITATION_S = 7 * DAY_S
MAX_LIMIT = 10**15
NAME = re.compile(r"[^\W_](?:[\w .@+-]{0,62}[\w.@+-])?")
# Names that stand for something else where keys are listed
RESERVED = (OWNER, "none")
KEY_COLUMNS: tables.Columns = {
    "name": ("Name", tables.text),
    "prefix": ("Begins", lambda prefix: f"{prefix}…" if prefix else ""),
    "state": ("State", tables.text),
    "created_at": ("Created", tables.moment),
    "expires_at": ("Ends", lambda moment: "never" if moment is None else tables.moment(moment)),
    "models": ("Models", lambda models: "all" if models is None else tables.names(models)),
    "rpm": ("Requests/min", tables.text),
    "tpm": ("Tokens/min", tables.text),
    "concurrency": ("At once", tables.text),
    "budget": ("Budget", lambda tokens: "" if tokens is None else tables.count(tokens)),
}
USAGE_COLUMNS: tables.Columns = {
    "name": ("Key", tables.text),
    "requests": ("Requests", tables.count),
    "errors": ("Errors", tables.count),
    "prompt_tokens": ("Prompt tokens", tables.count),
    "completion_tokens": ("Tokens made", tables.count),
    "tokens": ("Tokens", tables.count),
}
INVITATION_COLUMNS: tables.Columns = {
    "name": ("For", tables.text),
    "created_at": ("Created", tables.moment),
    "open_until": ("Open until", tables.moment),
    **{name: KEY_COLUMNS[name] for name in ("expires_at", "models", "rpm", "tpm", "concurrency", "budget")},
}


class Keys:
    """The teammates' keys of one server.

    Args:
        store: an open one.
        server: the name that they are kept under.
        models: tells the names of the server's models.
        aliases: tells further names, each with the model that it stands for.
        base_url: tells what OpenAI clients take as ``base_url``.
        page_url: tells where the server's page is, which opens invitations.
        owner_id: tells the id of the server's own key.
        check: raises what speaks against making a key.
        on_change: called after each change.
    """

    def __init__(
        self,
        store: Store,
        server: str,
        *,
        models: Callable[[], Sequence[str]],
        aliases: Callable[[], Mapping[str, str]] = dict,
        base_url: Callable[[], str],
        page_url: Callable[[], str],
        owner_id: Callable[[], str],
        check: Callable[[], None] = lambda: None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._keys = store.keys(server)
        self._models = models
        self._aliases = aliases
        self._base_url = base_url
        self._page_url = page_url
        self._owner_id = owner_id
        self._check = check
        self._on_change = on_change

    def create(self, name: str, **options: Unpack[KeyOptions]) -> NewKey:
        """Make a key, which opens at once.

        Args:
            name: whose it is.
            options: its limits, none of which it has unless given. ``rpm``: requests a minute. ``tpm``: tokens a
                minute, of prompts and answers. ``concurrency``: requests at once. ``budget``: tokens in all.
                ``models``: names of the models that answer it. ``expires``: when it opens no more; a length of time
                from now, in seconds or as a `timedelta`, or a `datetime`.

        Raises:
            ConfigError: the name is taken or none, a limit is out of range, or a model is not served.
            StoreError: the database failed.

        Examples:
            >>> server = kit.launch(kit.load("mock"), port=0)
            >>> key = server.keys.create("ada", rpm=60, models=["mock"], expires=3600)
            >>> key.api_key.startswith("sk-llmapi-"), key.api_key in repr(key)
            (True, False)
            >>> server.stop()
        """
        self._check()
        secret = new_api_key()
        key = replace(self._new(name, options), digest=digest_of(secret), prefix=prefix_of(secret))
        self._keys.add(key)
        self._on_change()
        return NewKey(key.name, secret, key.prefix, self._base_url(), key.expires_at)

    def list(self) -> tables.Table[dict[str, Any]]:
        """Every key that there is or was, the oldest first: a list, and a table in a cell. None has its secret.

        The field ``state`` is one of ``active``, ``paused``, ``invited``, ``expired`` and ``revoked``.

        Examples:
            >>> server = kit.launch(kit.load("mock"), port=0, name="list-of-keys")
            >>> key = server.keys.create("ada", rpm=60)
            >>> [(row["name"], row["state"], row["rpm"]) for row in server.keys.list()]
            [('ada', 'active', 60)]
            >>> server.stop()
        """
        rows = [{"state": key.state(time.time()), **_row(key)} for key in self._all()]
        return tables.Table(rows, KEY_COLUMNS, empty="There are no keys but the server's own.")

    def revoke(self, name: str) -> None:
        """Close a key for ever, at once: what it is being answered ends within a second. Its name is free then.

        Raises:
            ConfigError: there is none of that name.
            StoreError: the database failed.

        Examples:
            >>> server = kit.launch(kit.load("mock"), port=0)
            >>> key = server.keys.create("grace")
            >>> server.keys.revoke("grace")
            >>> server.keys.list()[-1]["state"]
            'revoked'
            >>> server.stop()
        """
        self._update(name, revoked_at=time.time())

    def rotate(self, name: str) -> NewKey:
        """Make another secret for a key. The old one opens nothing any more; limits, usage and sessions stay.

        Raises:
            ConfigError: there is none of that name.
            StoreError: the database failed.

        Examples:
            >>> server = kit.launch(kit.load("mock"), port=0)
            >>> old = server.keys.create("edsger")
            >>> server.keys.rotate("edsger").api_key != old.api_key
            True
            >>> server.stop()
        """
        secret = new_api_key()
        key = self._update(name, digest=digest_of(secret), prefix=prefix_of(secret))
        return NewKey(key.name, secret, key.prefix, self._base_url(), key.expires_at)

    def pause(self, name: str) -> None:
        """Close a key until `resume`, at once: what it is being answered ends.

        Raises:
            ConfigError: there is none of that name.
            StoreError: the database failed.

        Examples:
            >>> server = kit.launch(kit.load("mock"), port=0)
            >>> key = server.keys.create("barbara")
            >>> server.keys.pause("barbara")
            >>> server.keys.list()[-1]["state"]
            'paused'
            >>> server.keys.resume("barbara")
            >>> server.stop()
        """
        self._update(name, is_paused=True)

    def resume(self, name: str) -> None:
        """Let a key that was paused open again.

        Raises:
            ConfigError: there is none of that name.
            StoreError: the database failed.
        """
        self._update(name, is_paused=False)

    def usage(self, days: int = 30) -> tables.Table[dict[str, Any]]:
        """What each key used, the server's own first: a list, and a table in a cell.

        Args:
            days: so many days back, in UTC, today's included.

        Raises:
            StoreError: the database failed.

        Examples:
            >>> server = kit.launch(kit.load("mock"), port=0)
            >>> key = server.keys.create("alan")
            >>> with server.client(api_key=key.api_key) as client:
            ...     answer = client.completions.create(model="mock", prompt="Hello there!")
            >>> row = server.keys.usage(days=1)[-1]
            >>> row["name"], row["requests"], row["tokens"], row["errors"]
            ('alan', 1, 4, 0)
            >>> server.stop()
        """
        now = time.time()
        names = {self._owner_id(): OWNER, **{key.id: key.name for key in self._all()}}
        used = self._store.usage.totals_sync(list(names), first_second(days, now), now + 1)
        rows = [_usage_row(name, used.get(key_id, Counts())) for key_id, name in names.items()]
        return tables.Table(rows, USAGE_COLUMNS, empty="No key has been used yet.")

    def invite(
        self, name: str, *, open_for: float | timedelta = INVITATION_S, **options: Unpack[KeyOptions]
    ) -> Invitation:
        """See `llmapi_kit.server.sharing.SharedServer.invite`."""
        self._check()
        code = secrets.token_urlsafe(32)
        open_until = moment("open_for", open_for)
        self._keys.add(replace(self._new(name, options), code_digest=digest_of(code), code_expires_at=open_until))
        self._on_change()
        return Invitation(name, f"{self._page_url()}/#invite={code}", code, open_until)

    def invitations(self) -> tables.Table[dict[str, Any]]:
        """See `llmapi_kit.server.sharing.SharedServer.invitations`."""
        now = time.time()
        rows = [{**_row(key), "open_until": key.code_expires_at} for key in self._all() if key.state(now) == "invited"]
        return tables.Table(rows, INVITATION_COLUMNS, empty="No invitations are open.")

    def withdraw(self, name: str) -> None:
        """Close an invitation that nobody has taken yet.

        Raises:
            ConfigError: there is none of that name.
            StoreError: the database failed.
        """
        names = [row["name"] for row in self.invitations()]
        if name not in names:
            there = f"Open are: {', '.join(names)}." if names else "None is open."
            raise ConfigError(f"There is no open invitation of {name!r}.{did_you_mean(name, names)} {there}")
        self.revoke(name)

    def _all(self) -> Sequence[StoredKey]:
        return self._keys.all()[1]

    def _update(self, name: str, **values: Any) -> StoredKey:
        key = self._keys.update(name, **values)
        self._on_change()
        return key

    def _new(self, name: str, options: Mapping[str, Any]) -> StoredKey:
        """A key, or an invitation, without its secret."""
        if not isinstance(name, str) or not NAME.fullmatch(name) or name.lower() in RESERVED:
            raise ConfigError(
                f"A key's name is 1 to 64 letters, digits, spaces and .@+-_, begins with a letter or digit, and is not "
                f"{' or '.join(RESERVED)}; this is {name!r:.80}."
            )
        known = tuple(KeyOptions.__annotations__)
        if unknown := sorted(set(options) - set(known)):
            hint = did_you_mean(unknown[0], known)
            raise ConfigError(f"A key has no {unknown[0]!r}.{hint} It takes {', '.join(known)}.")
        expires = options.get("expires")
        expires_at = None if expires is None else moment("expires", expires)
        return StoredKey(secrets.token_hex(8), name, time.time(), expires_at=expires_at, limits=self._limits(options))

    def _limits(self, options: Mapping[str, Any]) -> KeyLimits:
        numbers = {name: options.get(name) for name in NUMBERS}
        for name, value in numbers.items():
            if value is not None and (type(value) is not int or not 1 <= value <= MAX_LIMIT):
                raise ConfigError(f"{name} is {value!r}; it takes a whole number from 1, or None for no limit.")
        models = options.get("models")
        return KeyLimits(None if models is None else self._resolve(models), **numbers)

    def _resolve(self, models: str | Sequence[str]) -> tuple[str, ...]:
        """Names of models; an alias stands for its model."""
        given = [models] if isinstance(models, str) else list(models)
        if not given:
            raise ConfigError("models is empty, so the key would open nothing. Name models, or leave it out for all.")
        served, aliases = self._models(), self._aliases()
        for name in given:
            if aliases.get(name, name) not in served:
                known = (*served, *aliases)
                hint = did_you_mean(str(name), known)
                raise ConfigError(f"The model {name!r} is not served here.{hint} There are: {', '.join(known)}.")
        return tuple(dict.fromkeys(aliases.get(name, name) for name in given))


def scope_of(name: str | None, instance: str) -> str:
    """What a server's keys are kept under: the name of its launch; without one they end with the server.

    Args:
        name: of the launch.
        instance: of the server.
    """
    return name or f"instance {instance}"


def moment(name: str, value: Moment) -> float:
    """The Unix time that an argument means.

    Args:
        name: of the argument.
        value: what it is; a `datetime` without a time zone is in this machine's.

    Raises:
        ConfigError: it is past, or no time.
    """
    now = time.time()
    try:
        if isinstance(value, datetime):
            at = value.timestamp()
        else:
            at = now + (value.total_seconds() if isinstance(value, timedelta) else float(value))
    except (TypeError, ValueError, OverflowError, OSError) as exc:
        raise ConfigError(f"{name} is {value!r}; it takes seconds, a timedelta or a datetime.") from exc
    if isinstance(value, bool) or not math.isfinite(at) or at <= now:
        raise ConfigError(
            f"{name} is {value!r}, which is not in the future. It takes seconds, a timedelta or a datetime."
        )
    return at


def first_second(days: int, now: float) -> float:
    """When so many days began, the one of `now` included, in UTC; as Unix time."""
    return now - now % DAY_S - (days - 1) * DAY_S


def _row(key: StoredKey) -> dict[str, Any]:
    limits = key.limits
    return {
        "name": key.name,
        "prefix": key.prefix,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "models": None if limits.models is None else list(limits.models),
        "rpm": limits.rpm,
        "tpm": limits.tpm,
        "concurrency": limits.concurrency,
        "budget": limits.budget,
    }


def _usage_row(name: str, used: Counts) -> dict[str, Any]:
    return {
        "name": name,
        "requests": used.requests,
        "errors": used.failed,
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "tokens": used.tokens,
    }
