"""The API keys of one upstream: which one is used next, and which ones rest.

A key that was told to slow down rests for as long as the upstream said; one that was refused is left alone for some
minutes, as whoever looks after it may mend it meanwhile. Thread-safe: requests come from several event loops.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence

from pydantic import SecretStr

from llmapi_kit.checkpoints.providers import Provider
from llmapi_kit.errors import ConfigError, QueueFullError, UpstreamError

QUARANTINE_S = 600.0
MAX_COOL_DOWN_S = 3600.0


class Key:
    """One API key, or none. Its repr never shows it.

    Args:
        secret: the key; empty for an upstream that asks for none.
        label: what logs call it, such as ``key 2 of 3``.
    """

    __slots__ = ("_secret", "label")

    def __init__(self, secret: str, label: str) -> None:
        self._secret = SecretStr(secret)
        self.label = label

    def reveal(self) -> str:
        """The key itself."""
        return self._secret.get_secret_value()

    def __repr__(self) -> str:
        return f"<{self.label}>"


class KeyPool:
    """Keys in rotation.

    Args:
        keys: at least one.
        provider: its name, for messages.
        advice: what an administrator can do when none is left.
        clock: seconds that never go back.
    """

    def __init__(
        self, keys: Sequence[Key], *, provider: str, advice: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = tuple(keys)
        self._provider = provider
        self._advice = advice
        self._clock = clock
        self._lock = threading.Lock()
        self._rests_until = dict.fromkeys(range(len(keys)), 0.0)
        self._refused: set[int] = set()  # of those that rest: because they were refused
        self._next = 0

    def __len__(self) -> int:
        return len(self._keys)

    def pick(self, affinity: str = "", without: Collection[Key] = ()) -> Key | None:
        """A key that does not rest; None where all of those were tried already.

        Args:
            affinity: the same one gets the same key, as long as that is well; empty takes them in turn.
            without: keys not to take again.

        Raises:
            QueueFullError: all rest because the upstream limits their rate; says when the first one is back.
            UpstreamError: all were refused.
        """
        with self._lock:
            awake = [index for index in range(len(self._keys)) if self._rests_until[index] <= self._clock()]
            if not awake:
                raise self._nobody()
            self._refused.difference_update(awake)
            left = [index for index in awake if self._keys[index] not in without]
            if not left:
                return None
            if affinity:
                return self._keys[max(left, key=lambda index: _weight(affinity, index))]
            chosen = min(left, key=lambda index: (index - self._next) % len(self._keys))
            self._next = (chosen + 1) % len(self._keys)
            return self._keys[chosen]

    def cool_down(self, key: Key, seconds: float) -> None:
        """Let a key rest: the upstream limits its rate."""
        self._rest(key, min(max(seconds, 0.0), MAX_COOL_DOWN_S), is_refused=False)

    def quarantine(self, key: Key) -> None:
        """Leave a key alone: the upstream refuses it."""
        self._rest(key, QUARANTINE_S, is_refused=True)

    def problem(self) -> str:
        """Why no key can be used now; empty if one can."""
        with self._lock:
            if any(until <= self._clock() for until in self._rests_until.values()):
                return ""
            return self._nobody().message

    def scrub(self, text: str) -> str:
        """A text without any of the keys."""
        for key in self._keys:
            if secret := key.reveal():
                text = text.replace(secret, "[key]")
        return text

    def _rest(self, key: Key, seconds: float, *, is_refused: bool) -> None:
        with self._lock:
            index = self._keys.index(key)
            self._rests_until[index] = max(self._rests_until[index], self._clock() + seconds)
            if is_refused:
                self._refused.add(index)

    def _nobody(self) -> QueueFullError | UpstreamError:
        if len(self._refused) == len(self._keys):
            return UpstreamError(
                f"{self._provider} refuses this server's API key{'s' if len(self._keys) > 1 else ''}. {self._advice}",
                code="upstream_key_refused",
            )
        limited = [until for index, until in self._rests_until.items() if index not in self._refused]
        return QueueFullError(
            f"{self._provider} limits the rate of this server's API key{'s' if len(self._keys) > 1 else ''}. Try again "
            "later.",
            code="upstream_rate_limited",
            retry_after_s=max(0.0, min(limited) - self._clock()),
        )


def read_keys(provider: Provider, given: str | Sequence[str] | None) -> list[Key]:
    """The keys of a provider: those given, else those in its environment variable; one empty key where none is needed.

    Raises:
        ConfigError: one is needed and there is none, or one can't be sent; the message does not show it.
    """
    if given is None:
        given = os.environ.get(provider.key_variable, "") if provider.key_variable else ""
    parts = given.split(",") if isinstance(given, str) else list(given)
    secrets = list(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if not secrets:
        if provider.needs_key:
            raise ConfigError(
                f"{provider.name} needs an API key. Set the environment variable {provider.key_variable}, or pass "
                "api_key=…; several keys have commas between them."
            )
        return [Key("", "no key")]
    labels = [f"key {number} of {len(secrets)}" for number in range(1, len(secrets) + 1)]
    for secret, label in zip(secrets, labels, strict=True):
        if not (secret.isascii() and secret.isprintable()) or " " in secret:
            raise ConfigError(f"The API key for {provider.name} ({label}) has characters that no key has.")
    return [Key(secret, label) for secret, label in zip(secrets, labels, strict=True)]


def _weight(affinity: str, index: int) -> bytes:
    """Rendezvous hashing: when a key rests, only those who had it move.

    Source: Thaler and Ravishankar 1998, "Using name-based mappings to increase hit rates".
    """
    return hashlib.blake2b(f"{index} {affinity}".encode(), digest_size=8).digest()
