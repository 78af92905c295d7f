"""`Limiter`: what a key may do at all, and in a minute, and at once.

Every generation, embedding and picture is admitted here before an engine sees it. Tokens are reserved by an estimate
and corrected when they are known. On the server's event loop, but for what tells or sets what was used, which any
thread may call.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmapi_kit.api.caller import Caller
from llmapi_kit.errors import QuotaError, RateLimitError

if TYPE_CHECKING:
    from llmapi_kit.api.minute_counts import MinuteCounts  # its library takes its time to import

BUSY_RETRY_S = 1.0
Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Admission:
    """One request that was let through; `settle` it whatever happens.

    Attributes:
        limiter: that did.
        caller: whose it is.
        reserved: tokens that it was taken to use.
        counted: of these, in a minute.
        window: that minute; empty where none is counted.
        is_settled: whether it is over.
    """

    limiter: Limiter
    caller: Caller
    reserved: int
    counted: int = 0
    window: str = ""
    is_settled: bool = False

    def settle(self, num_tokens: int) -> None:
        """It is over, and used so many tokens. Safe to call twice: the first call counts."""
        if not self.is_settled:
            self.is_settled = True
            self.limiter.settle(self, num_tokens)


class Limiter:
    """The limits of all keys of one server. Keys without limits cost nothing."""

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()
        self._reserved: Counter[str] = Counter()
        self._used_here: Counter[str] = Counter()
        self._used_elsewhere: Mapping[str, int] = {}
        self._made_minutes: MinuteCounts | None = None

    def admit(self, caller: Caller, estimate: Callable[[], int]) -> Admission | None:
        """Let one request through; None for a caller without limits.

        Args:
            caller: who asks.
            estimate: tells about how many tokens it takes; only called where they count.

        Raises:
            QuotaError: the key's budget is used up.
            RateLimitError: it has to wait.
        """
        limits = caller.limits
        if (limits.rpm, limits.tpm, limits.concurrency, limits.budget) == (None,) * 4:
            return None
        num_tokens = estimate() if limits.tpm is not None or limits.budget is not None else 0
        admission = Admission(self, caller, num_tokens)
        self._check_budget(admission)
        self._check_concurrency(caller)
        if limits.rpm is not None:
            self._check_minute(caller, "requests", limits.rpm, 1)
        if limits.tpm is not None:
            # What is taken to need more would wait for ever; what it takes too much, the next ones wait for
            admission.counted = min(num_tokens, limits.tpm)
            self._check_minute(caller, "tokens", limits.tpm, admission.counted)
            admission.window = self._minutes.add(f"{caller.id} tokens", limits.tpm, admission.counted)
        if limits.rpm is not None:
            self._minutes.add(f"{caller.id} requests", limits.rpm, 1)
        self._running[caller.id] += 1
        self._reserved[caller.id] += num_tokens
        return admission

    def settle(self, admission: Admission, num_tokens: int) -> None:
        """See `Admission.settle`."""
        caller = admission.caller
        self._running[caller.id] -= 1
        self._reserved[caller.id] -= admission.reserved
        self._used_here[caller.id] += num_tokens
        if admission.window and caller.limits.tpm is not None:
            if num_tokens < admission.counted:
                self._minutes.take_back(admission.window, admission.counted - num_tokens)
            elif num_tokens > admission.counted:
                self._minutes.add(f"{caller.id} tokens", caller.limits.tpm, num_tokens - admission.counted)

    def tokens_used(self, key_id: str) -> int:
        """Tokens that a key with a budget has used since it was made, as far as they are counted."""
        return self._used_elsewhere.get(key_id, 0) + self._used_here[key_id]

    def used_here(self) -> Mapping[str, int]:
        """Tokens that each key with limits has used at this server since it began."""
        return dict(self._used_here)

    def set_used_elsewhere(self, tokens: Mapping[str, int]) -> None:
        """What was used besides: before this server began, and at others with the same database."""
        self._used_elsewhere = tokens

    def headers(self, caller: Caller) -> Headers:
        """What an answer says of the limits of a minute, in OpenAI's headers; nothing of those there are none of."""
        found: Headers = []
        for unit, limit in (("requests", caller.limits.rpm), ("tokens", caller.limits.tpm)):
            if limit is not None:
                left, reset_s = self._minutes.remaining(f"{caller.id} {unit}", limit)
                values = {"limit": str(limit), "remaining": str(left), "reset": duration(reset_s)}
                found += [(f"x-ratelimit-{name}-{unit}".encode(), value.encode()) for name, value in values.items()]
        return found

    @property
    def _minutes(self) -> MinuteCounts:
        if self._made_minutes is None:
            from llmapi_kit.api.minute_counts import MinuteCounts

            self._made_minutes = MinuteCounts()
        return self._made_minutes

    def _check_budget(self, admission: Admission) -> None:
        caller = admission.caller
        if (budget := caller.limits.budget) is None:
            return
        used, under_way = self.tokens_used(caller.id), self._reserved[caller.id]
        if used >= budget:
            raise QuotaError(
                f"The API key {caller.name!r} has used its {budget:,} tokens. Ask whoever runs this server for more."
            )
        if under_way and used + under_way + admission.reserved > budget:
            raise RateLimitError(
                f"The API key {caller.name!r} has {budget - used:,} tokens left, which its requests under way may use "
                "up. Send the next one when they are done.",
                retry_after_s=BUSY_RETRY_S,
            )

    def _check_concurrency(self, caller: Caller) -> None:
        most, running = caller.limits.concurrency, self._running[caller.id]
        if most is not None and running >= most:
            raise RateLimitError(
                f"The API key {caller.name!r} has {running} {'request' if running == 1 else 'requests'} under way, as "
                "many as it may. Send the next one when one is done.",
                retry_after_s=BUSY_RETRY_S,
            )

    def _check_minute(self, caller: Caller, unit: str, limit: int, amount: int) -> None:
        name = f"{caller.id} {unit}"
        if not self._minutes.has_room(name, limit, amount):
            wait_s = self._minutes.wait_s(name, limit, amount)
            needed = "" if unit == "requests" else f", and this request may take {amount:,}"
            raise RateLimitError(
                f"The API key {caller.name!r} may use {limit:,} {unit} a minute{needed}. Try again in "
                f"{duration(wait_s)}.",
                retry_after_s=max(wait_s, 0.001),
            )


class Attempts:
    """Counts what strangers got wrong, all of them together: behind a tunnel nobody can be told from another.

    Args:
        most: so many a minute.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._minutes: MinuteCounts | None = None

    def add(self) -> None:
        """Count one.

        Raises:
            RateLimitError: there were too many.
        """
        if self._minutes is None:
            from llmapi_kit.api.minute_counts import MinuteCounts

            self._minutes = MinuteCounts()
        if not self._minutes.has_room("attempts", self._most, 1):
            wait_s = self._minutes.wait_s("attempts", self._most, 1)
            raise RateLimitError(
                f"More than {self._most} wrong attempts came in a minute. Try again in {duration(wait_s)}.",
                retry_after_s=max(wait_s, 0.001),
            )
        self._minutes.add("attempts", self._most, 1)


def duration(seconds: float) -> str:
    """How long, as OpenAI writes it: 120ms, 7s, 1m30s."""
    if 0 < seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
