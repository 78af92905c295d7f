"""`Limiter`: what a key may do at all, and in a minute, and at once.

Every generation, embedding and picture is admitted here before an engine sees it. Tokens are reserved by an estimate
and corrected when they are known. Where several servers have one Postgres, what all of them let through counts. On the
server's event loop, but for what tells or sets what was used, which any thread may call.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from llmapi_kit.api.caller import Caller
from llmapi_kit.errors import QuotaError, RateLimitError
from llmapi_kit.store.minute_window import Window

if TYPE_CHECKING:
    from llmapi_kit.api.minute_counts import MinuteCounts  # its library takes its time to import
    from llmapi_kit.api.shared_counts import SharedCounts, SharedUse  # likewise
    from llmapi_kit.store.key_counts import Used

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
        minute: that minute; empty where none is counted.
        request_minute: the minute that it is counted in as a request, likewise.
        shared: what all servers count of it; None where this one counts alone.
        is_settled: whether it is over.
    """

    limiter: Limiter
    caller: Caller
    reserved: int
    counted: int = 0
    minute: str = ""
    request_minute: str = ""
    shared: SharedUse | None = None
    is_settled: bool = False

    def settle(self, num_tokens: int) -> None:
        """It is over, and used so many tokens. Safe to call twice: the first call counts."""
        if not self.is_settled:
            self.is_settled = True
            self.limiter.settle(self, num_tokens)


class Limiter:
    """The limits of all keys of one server. Keys without limits cost nothing.

    Attributes:
        shared: what other servers let through besides; None where this one counts alone.
    """

    def __init__(self) -> None:
        self.shared: SharedCounts | None = None
        self._running: Counter[str] = Counter()
        self._reserved: Counter[str] = Counter()
        self._used_here: Counter[str] = Counter()
        self._used_elsewhere: Mapping[str, int] = {}
        self._made_minutes: MinuteCounts | None = None

    def admit(self, caller: Caller, estimate: Callable[[], int]) -> Admission | None:
        """Let one request through, as far as this server knows; None for a caller without limits.

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
        _check_concurrency(caller, self._running[caller.id])
        if limits.rpm is not None:
            _check_minute(caller, "requests", self._window(caller, "requests", limits.rpm), limits.rpm, 1)
        if limits.tpm is not None:
            # What is taken to need more would wait for ever; what it takes too much, the next ones wait for
            admission.counted = min(num_tokens, limits.tpm)
            window = self._window(caller, "tokens", limits.tpm)
            _check_minute(caller, "tokens", window, limits.tpm, admission.counted)
            admission.minute = self._minutes.add(f"{caller.id} tokens", limits.tpm, admission.counted)
        if limits.rpm is not None:
            admission.request_minute = self._minutes.add(f"{caller.id} requests", limits.rpm, 1)
        self._running[caller.id] += 1
        self._reserved[caller.id] += num_tokens
        return admission

    async def confirm(self, admission: Admission) -> None:
        """Let a request that was let through count at all servers; settled where they refuse it, or whoever waits left.

        Raises:
            RateLimitError: it has to wait.
        """
        caller, limits = admission.caller, admission.caller.limits
        if self.shared is None or (limits.rpm, limits.tpm, limits.concurrency) == (None,) * 3:
            return
        check = partial(_refusal, admission)
        try:
            admission.shared = await self.shared.take(caller.id, limits, admission.counted, check)
        except BaseException:
            if admission.request_minute:
                self._minutes.take_back(admission.request_minute, 1)
            admission.settle(0)
            raise

    def settle(self, admission: Admission, num_tokens: int) -> None:
        """See `Admission.settle`."""
        caller = admission.caller
        self._running[caller.id] -= 1
        self._reserved[caller.id] -= admission.reserved
        self._used_here[caller.id] += num_tokens
        more = num_tokens - admission.counted if admission.minute else 0
        if more < 0:
            self._minutes.take_back(admission.minute, -more)
        elif more > 0 and caller.limits.tpm is not None:
            self._minutes.add(f"{caller.id} tokens", caller.limits.tpm, more)
        if self.shared is not None and admission.shared is not None:
            self.shared.settle(admission.shared, more)

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
        known = None if self.shared is None else self.shared.windows(caller.id)
        for unit, limit in (("requests", caller.limits.rpm), ("tokens", caller.limits.tpm)):
            if limit is not None:
                own = self._window(caller, unit, limit)
                others = () if known is None else (known[unit == "tokens"],)
                left, reset_s = min((window.remaining(limit) for window in (own, *others)), key=lambda each: each[0])
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

    def _window(self, caller: Caller, unit: str, limit: int) -> Window:
        return self._minutes.window(f"{caller.id} {unit}", limit)


def _refusal(admission: Admission, used: Used) -> RateLimitError | None:
    """Why a request has to wait, by what its key has used at all servers."""
    caller, limits = admission.caller, admission.caller.limits
    try:
        _check_concurrency(caller, used.num_running)
        if limits.rpm is not None:
            _check_minute(caller, "requests", used.requests, limits.rpm, 1)
        if limits.tpm is not None:
            _check_minute(caller, "tokens", used.tokens, limits.tpm, admission.counted)
    except RateLimitError as exc:
        return exc
    return None


def _check_concurrency(caller: Caller, running: int) -> None:
    most = caller.limits.concurrency
    if most is not None and running >= most:
        raise RateLimitError(
            f"The API key {caller.name!r} has {running} {'request' if running == 1 else 'requests'} under way, as "
            "many as it may. Send the next one when one is done.",
            retry_after_s=BUSY_RETRY_S,
        )


def _check_minute(caller: Caller, unit: str, window: Window, limit: int, amount: int) -> None:
    if not window.has_room(limit, amount):
        wait_s = window.wait_s(limit, amount)
        needed = "" if unit == "requests" else f", and this request may take {amount:,}"
        raise RateLimitError(
            f"The API key {caller.name!r} may use {limit:,} {unit} a minute{needed}. Try again in {duration(wait_s)}.",
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
        window = self._minutes.window("attempts", self._most)
        if not window.has_room(self._most, 1):
            wait_s = window.wait_s(self._most, 1)
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
