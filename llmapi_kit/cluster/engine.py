"""An engine whose replicas run in a Ray cluster: an `Engine` over the handle of a Serve deployment.

Serve chooses the replica, queues what they can't take yet, and starts others in place of those that die. A request
whose replica dies before anything of its answer was passed on is asked again; later it ends in one error.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from itertools import count
from typing import Any

from llmapi_kit.cluster.replica import Outcome, Report
from llmapi_kit.cluster.request_counts import RequestCounts
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.engines.channel import Ended
from llmapi_kit.engines.remote_engine import RemoteEngine
from llmapi_kit.errors import EngineUnavailableError, QueueFullError, RequestError
from llmapi_kit.types import (
    Accepted,
    EngineInfo,
    EngineStats,
    Event,
    Failed,
    Finished,
    Readiness,
)

MAX_TRIES = 6  # of a request whose replicas die one after the other
FIRST_PAUSE_S, MAX_PAUSE_S = 0.05, 1.0
RETRY_AFTER_S = 5
FULL_RETRY_S = 2
UNLOADED = "The model was unloaded."
READINESS_AGE_S, READINESS_WAIT_S, SILENT_AFTER_S = 1.0, 0.5, 10.0

logger = logging.getLogger(__name__)


class ClusterEngine(RemoteEngine):
    """See `llmapi_kit.engines.base.Engine`.

    Args:
        handle: of the deployment of `llmapi_kit.cluster.replica.EngineReplica`.
        info: of its engines.
        find_readiness: asks the cluster; may take its time.
        find_loss: says at once why the cluster is of no more use, where it is of none.
        max_requests: that may run and wait at a time; None where others see to that.
        on_close: called once.

    Attributes:
        info: that of its engines.
    """

    def __init__(
        self,
        handle: Any,
        info: EngineInfo,
        *,
        find_readiness: Callable[[], Readiness],
        find_loss: Callable[[], str] = lambda: "",
        max_requests: int | None = None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.info = info
        self._streams = handle.options(method_name="generate", stream=True)
        self._calls = handle.options(method_name="call")
        self._readiness = _Readiness(find_readiness)
        self._find_loss = find_loss
        self._max_requests = max_requests
        self._on_close = on_close
        self._counts = RequestCounts()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._under_way: set[Any] = set()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """See `Engine.generate`."""
        is_accepted = has_begun = False
        num_to_come = request.n
        with self._counts.request(request.n) as counted:
            for attempt in count(1):
                try:
                    async with aclosing(self._events(request)) as events:
                        async for event in events:
                            if isinstance(event, Failed) and not has_begun:
                                raise event.error
                            if isinstance(event, Accepted) and is_accepted:
                                continue  # of an earlier try
                            is_accepted = True
                            has_begun = has_begun or not isinstance(event, Accepted)
                            num_to_come = 0 if isinstance(event, Failed) else num_to_come - isinstance(event, Finished)
                            yield counted.record(event)
                    return
                except RequestError as exc:
                    if not num_to_come:  # the replica died when its answer was over, and before it had told that it was
                        return
                    if not has_begun and await self._may_do_better(exc, attempt):
                        continue
                    if not is_accepted:
                        raise
                    yield counted.record(Failed(exc))
                    return

    def readiness(self) -> Readiness:
        """See `Engine.readiness`: ready when a replica is. What the cluster said last where it does not answer soon."""
        if self._closing.is_set():
            return Readiness(False, UNLOADED, "unloaded")
        if why_lost := self._find_loss():
            return Readiness(False, why_lost)
        return self._readiness.read()

    def stats(self) -> EngineStats:
        """See `Engine.stats`: of the requests that came through here, wherever they were answered."""
        return self._counts.stats()

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            is_first = not self._closing.is_set()
            self._closing.set()
            under_way = list(self._under_way)
        if is_first:
            for response in under_way:
                response.cancel()
            self._on_close()

    async def _events(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """The events of one try.

        Raises:
            RequestError: the replica refused the request, or is gone.
        """
        response = self._asked(lambda: self._streams.remote(request))
        is_over = False
        try:
            while items := await self._awaited(anext(response, None)):
                for item in items:
                    if isinstance(item, Report):
                        self._counts.report(item)
                    elif isinstance(item, Ended):
                        is_over = True
                        if item.error is not None:
                            raise item.error
                    else:
                        yield item
            if not is_over:
                is_over = True
                raise self._died("its stream ended early")
        finally:
            with self._lock:
                self._under_way.discard(response)
            if not is_over:
                response.cancel()

    async def _call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Have a method of a replica's engine awaited."""
        for attempt in count(1):
            response = self._asked(lambda: self._calls.remote(method, arguments, keywords))
            try:
                outcome: Outcome = await self._awaited(response)
                if outcome.error is not None:
                    raise outcome.error
                return outcome.value
            except asyncio.CancelledError:
                response.cancel()
                raise
            except RequestError as exc:
                if not await self._may_do_better(exc, attempt):
                    raise
            finally:
                with self._lock:
                    self._under_way.discard(response)

    async def _may_do_better(self, error: RequestError, attempt: int) -> bool:
        """Whether to ask once more, after a pause: another replica may answer what one that is gone could not."""
        is_gone = isinstance(error, EngineUnavailableError) and not self._closing.is_set()
        if not is_gone or attempt == MAX_TRIES or self._find_loss():
            return False
        logger.warning("%s: %s It is asked again", self.info.id, error.message)
        await asyncio.sleep(min(FIRST_PAUSE_S * 2 ** (attempt - 1), MAX_PAUSE_S))
        return True

    async def _awaited(self, response: Any) -> Any:
        """What Serve answers, with its errors as ours."""
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        try:
            return await response
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            raise self._died("it gave the request up") from None
        except (RayError, RayServeException) as exc:
            raise self._translated(exc) from exc

    def _translated(self, error: Exception) -> RequestError:
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

        if self._closing.is_set():
            return EngineUnavailableError(UNLOADED)
        if isinstance(error, BackPressureError):
            return self._full(error.args[0])
        if isinstance(error, DeploymentUnavailableError):
            return EngineUnavailableError(f"The cluster can't run {self.info.id!r}: {error.message}")
        return self._died(type(error).__name__)

    def _died(self, how: str) -> EngineUnavailableError:
        return EngineUnavailableError(
            f"The replica that answered died ({how}). Send the request again.", retry_after_s=RETRY_AFTER_S
        )

    def _full(self, num: int) -> QueueFullError:
        return QueueFullError(
            f"All replicas of {self.info.id!r} are busy, and {num} requests run or wait already. Try again later.",
            retry_after_s=FULL_RETRY_S,
        )

    def _asked(self, ask: Callable[[], Any]) -> Any:
        """A request to Serve, which `close` ends.

        Raises:
            EngineUnavailableError: this is closed, or the cluster is gone.
            QueueFullError: as many as may be are under way.
        """
        with self._lock:
            if self._closing.is_set():
                raise EngineUnavailableError(UNLOADED)
            if why_lost := self._find_loss():
                raise EngineUnavailableError(why_lost)
            if self._max_requests is not None and len(self._under_way) >= self._max_requests:
                raise self._full(self._max_requests)
            response = ask()
            self._under_way.add(response)
        return response


def _is_cancelled() -> bool:
    """Whether whoever waits gave up; Ray has the same exception for a request that its replica gave up."""
    task = asyncio.current_task()
    cancelling = getattr(task, "cancelling", None)  # not on Python 3.10, which can't tell
    return cancelling is None or cancelling() > 0


class _Readiness:
    """What the cluster said last, asked anew where that is old, by a thread that nobody waits for longer than briefly.

    Args:
        find: asks the cluster.
    """

    def __init__(self, find: Callable[[], Readiness]) -> None:
        self._find = find
        self._lock = threading.Lock()
        self._known = Readiness(True)
        self._known_at = self._asked_at = time.monotonic()
        self._fresh: threading.Event | None = None

    def read(self) -> Readiness:
        """The latest that is known."""
        with self._lock:
            if time.monotonic() - self._known_at < READINESS_AGE_S:
                return self._known
            if self._fresh is None:
                self._fresh, self._asked_at = threading.Event(), time.monotonic()
                threading.Thread(target=self._refresh, name="llmapi_kit cluster", daemon=True).start()
            fresh = self._fresh
        fresh.wait(READINESS_WAIT_S)
        with self._lock:
            silent_s = time.monotonic() - self._asked_at if self._fresh is not None else 0.0
            if silent_s > SILENT_AFTER_S:
                return Readiness(False, f"The cluster has not answered for {silent_s:.0f} s.")
            return self._known

    def _refresh(self) -> None:
        try:
            found = self._find()
        except Exception as exc:  # whatever a cluster that is gone makes of the question
            found = Readiness(False, f"The cluster does not answer: {exc}")
        with self._lock:
            self._known, self._known_at = found, time.monotonic()
            fresh, self._fresh = self._fresh, None
        if fresh is not None:
            fresh.set()
