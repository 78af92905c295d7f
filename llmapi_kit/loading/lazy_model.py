"""A model that is loaded when somebody takes a lease of it, and can be unloaded when nobody holds one.

The state machine behind `llmapi_kit.loading.lazy_engine.LazyEngine`; knows nothing of requests or event loops. A load
runs in a thread of its own. All methods may be called from any thread; only `load`, `unload` and `close` block.

    unloaded -> loading -> loaded -> unloading -> unloaded        any -> closed
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from traceback import format_exception
from typing import Literal

from llmapi_kit.checkpoints.fit import MemoryNeed
from llmapi_kit.checkpoints.spec import ModelSpec
from llmapi_kit.config import Settings
from llmapi_kit.engines.base import Engine
from llmapi_kit.errors import EngineUnavailableError, ModelLoadError, ModelTooLargeError
from llmapi_kit.loading.load_failure import LoadFailure, load_failure
from llmapi_kit.loading.memory_release import release_memory
from llmapi_kit.loading.model_memory import ModelMemory
from llmapi_kit.types import EngineInfo, EngineStats, Readiness

logger = logging.getLogger(__name__)

NOT_LOADED = "Not loaded: the first request for it loads it."
DEFAULT_RETRY_S = 10.0


@dataclass(eq=False, slots=True)
class Lease:
    """Somebody who needs the engine: waits for it, is in, or was told why not.

    Attributes:
        wake: called once, in any thread and with the lock held, when it is settled, unless that was so from the start;
            returns whether anybody is still there.
        is_settled: whether waiting is over.
        engine: which is not unloaded before the lease is released.
        failure: why there is none, for clients.
        cause: what loading raised.
    """

    wake: Callable[[], bool]
    is_settled: bool = False
    engine: Engine | None = None
    failure: LoadFailure | None = None
    cause: Exception | None = None


class LazyModel:
    """See the module. A `llmapi_kit.loading.model_memory.Evictable` while it is loaded.

    Args:
        spec: what is loaded.
        make: loads it; called once for each time that it is loaded.
        find_need: what memory that takes; called before.
        model_memory: the models it shares the memory with.
        settings: `load_wait_s` and `idle_unload_s`; see `apply`.

    Attributes:
        id: what clients pass as ``model``.
        info: of the engine when it was last loaded; before that, what can honestly be said.
        need: what it takes.
        last_used: when somebody last entered or left.
    """

    def __init__(
        self,
        spec: ModelSpec,
        make: Callable[[], Engine],
        find_need: Callable[[], MemoryNeed],
        model_memory: ModelMemory,
        settings: Settings,
    ) -> None:
        self.id = spec.id
        self.info = EngineInfo(spec.id, 0, int(time.time()), description=NOT_LOADED, capabilities=())
        self.need = MemoryNeed()
        self.last_used = time.monotonic()
        self._spec = spec
        self._make = make
        self._find_need = find_need
        self._model_memory = model_memory
        self._lock = model_memory.changed  # held to read and write what follows
        self._settings = settings
        self._state: Literal["unloaded", "loading", "loaded", "unloading", "closed"] = "unloaded"
        self._engine: Engine | None = None
        self._num_leases = 0
        self._waiting: list[Lease] = []
        self._is_held = False
        self._failure: LoadFailure | None = None
        self._past = EngineStats()
        self._last_load_s = 0.0
        self._timer: threading.Timer | None = None

    @property
    def load_wait_s(self) -> float:
        """How long a lease should be waited for."""
        return self._settings.load_wait_s

    def acquire(self, wake: Callable[[], bool]) -> Lease:
        """Ask for the engine; `wake` is called when there is an answer, if there is none at once. Then `release`."""
        lease = Lease(wake)
        with self._lock:
            self.last_used = time.monotonic()
            if self._state == "closed":
                lease.is_settled = True
            elif self._state == "loaded" and not self._is_held:
                self._grant(lease)
            elif self._state == "unloaded" and self._failure is not None and self._failure.pause_left_s:
                lease.is_settled, lease.failure = True, self._failure
            else:
                self._waiting.append(lease)
                if self._state == "unloaded":
                    self._start_load()
        return lease

    def release(self, lease: Lease) -> None:
        """End a lease, settled or not; exactly once."""
        with self._lock:
            if lease in self._waiting:
                self._waiting.remove(lease)
            elif lease.engine is not None:
                self._num_leases -= 1
                self.last_used = time.monotonic()
                if self._num_leases == 0:
                    self._lock.notify_all()

    def engine_of(self, lease: Lease) -> Engine:
        """The engine of a lease that was granted.

        Raises:
            EngineUnavailableError: none, with the reason; or it is not loaded yet, with when to come back.
        """
        with self._lock:
            if lease.engine is not None:
                return lease.engine
            if lease.failure is not None:
                raise lease.failure.error()
            if lease.is_settled:
                raise self._closed()
            raise EngineUnavailableError(
                f"The model {self.id!r} is still loading after {self.load_wait_s:g} s. Ask again in a moment.",
                param="model",
                code="model_loading",
                retry_after_s=max(1.0, self._last_load_s or DEFAULT_RETRY_S),
            )

    def load(self) -> None:
        """Load it, blocking until it is there. An interrupt ends the wait, not the load.

        Raises:
            LlmApiKitError: what loading it raised.
        """
        done = threading.Event()

        def wake() -> bool:
            done.set()
            return True

        lease = self.acquire(wake)
        try:
            if not lease.is_settled:
                done.wait()
            if lease.cause is not None:
                raise lease.cause
            self.engine_of(lease)
        finally:
            self.release(lease)

    def unload(self) -> bool:
        """Unload it unless somebody is in or waits, and say whether that was done. Blocks for some seconds at most."""
        with self._lock:
            if self._state != "loaded" or not self.is_idle or self._waiting:
                return False
            close = self.detach()
        close()
        return True

    def close(self) -> None:
        """Unload it for good. A load under way ends by itself, and what it loaded is closed at once."""
        with self._lock:
            if self._state == "closed":
                return
            engine, self._engine = self._engine, None
            if engine is not None:
                self._past = engine.stats().after(self._past)
            self._state = "closed"
            self._arm_timer(0)
            self._model_memory.remove(self)
            self._settle(*self._waiting)
        if engine is not None:
            engine.close()

    def apply(self, settings: Settings) -> None:
        """Go by other settings from now on."""
        with self._lock:
            self._settings = settings
            if self._state == "loaded":
                self._arm_timer(settings.idle_unload_s)

    def readiness(self) -> Readiness:
        """See `Engine.readiness`: ready also where the next request would load it."""
        with self._lock:
            engine, state, failure = self._engine, self._state, self._failure
        if state == "closed":
            return Readiness(False, f"The model {self.id!r} was closed.", "unloaded")
        if engine is not None:
            return replace(engine.readiness(), state="loaded")
        if state == "loading":
            return Readiness(True, "Loading.", "loading")
        if failure is not None:
            return Readiness(failure.pause_left_s == 0, failure.message, "unloaded")
        return Readiness(True, NOT_LOADED, "unloaded")

    def stats(self) -> EngineStats:
        """See `Engine.stats`: of all the times that it was loaded; who waits for it is queued."""
        with self._lock:
            now = self._engine.stats() if self._engine is not None else EngineStats()
            stats = now.after(self._past)
            stats.num_queued += len(self._waiting)
            return stats

    # As an `Evictable`: with the lock held, but for what `detach` returns

    @property
    def is_idle(self) -> bool:
        """See `Evictable.is_idle`."""
        return self._num_leases == 0

    def pause(self) -> None:
        """See `Evictable.pause`."""
        self._is_held = True

    def resume(self) -> None:
        """See `Evictable.resume`."""
        self._is_held = False
        if self._state == "loaded":
            self._grant(*self._waiting)

    def detach(self) -> Callable[[], None]:
        """See `Evictable.detach`."""
        engine, self._engine = self._engine, None
        if engine is None:
            raise RuntimeError(f"{self.id} is not loaded")
        self._past = engine.stats().after(self._past)
        self._past.num_unloads += 1
        self._state = "unloading"
        self._is_held = False
        self._arm_timer(0)
        self._model_memory.remove(self)
        return partial(self._unload, engine)

    def _unload(self, engine: Engine) -> None:
        try:
            engine.close()
        except Exception:
            logger.exception("Closing the model %s failed", self.id)
        del engine
        release_memory()
        logger.info("Unloaded the model %s", self.id)
        with self._lock:
            if self._state == "unloading":
                self._state = "unloaded"
                if self._waiting:
                    self._start_load()

    # Loading

    def _start_load(self) -> None:
        self._state = "loading"
        threading.Thread(target=self._load, name=f"llmapi_kit load {self.id}", daemon=True).start()

    def _load(self) -> None:
        with self._model_memory.turn():
            has_left_something = self._load_in_turn()
        if has_left_something:
            release_memory()

    def _load_in_turn(self) -> bool:
        """Load it and tell those who wait; whether there is memory to give back."""
        started = time.monotonic()
        loaded: Engine | None = None
        cause: Exception | None = None
        try:
            loaded = self._load_engine()
        except Exception as exc:
            cause = exc
        except BaseException as exc:  # such as SystemExit: those who wait are told all the same
            cause = ModelLoadError(f"Loading {self.id} ended in {type(exc).__name__}: {exc}")
        with self._lock:
            self._last_load_s = time.monotonic() - started
            self._past.load_s += self._last_load_s
            is_closed = self._state == "closed"
            if loaded is not None and not is_closed:
                self._take_over(loaded)
            elif cause is not None and not is_closed:
                self._fail(cause)
        if cause is not None and not is_closed:
            # As text: a traceback that a log handler keeps would keep what was loaded half way
            logger.warning("The model %s could not be loaded:\n%s", self.id, "".join(format_exception(cause)))
        if loaded is not None and is_closed:
            loaded.close()
        return cause is not None or is_closed

    def _load_engine(self) -> Engine:
        self.need = self._find_need()
        self._check_open()
        self._model_memory.make_room(self.id, self.need, lambda: self._state == "loading", self.load_wait_s)
        while True:
            self._check_open()
            try:
                return self._make()
            except (ModelTooLargeError, MemoryError):
                if not self._model_memory.unload_one(self.need.device):
                    raise

    def _check_open(self) -> None:
        with self._lock:
            if self._state == "closed":
                raise self._closed()

    def _take_over(self, engine: Engine) -> None:
        self._engine = engine
        self.info = replace(engine.info, id=self.id)
        self._state = "loaded"
        self._failure = None
        self.need = replace(self.need, device=self.need.device or self.info.device)
        self._past.num_loads += 1
        self.last_used = time.monotonic()
        self._model_memory.add(self)
        self._grant(*self._waiting)
        self._arm_timer(self._settings.idle_unload_s)
        logger.info("Loaded the model %s in %.1f s", self.id, self._last_load_s)

    def _fail(self, cause: Exception) -> None:
        path = str(self._spec.path) if self._spec.path is not None else None
        self._failure = load_failure(self._spec.name, path, cause, self._failure)
        self._state = "unloaded"
        self._past.num_failed_loads += 1
        for lease in self._waiting:
            lease.failure, lease.cause = self._failure, cause
        self._settle(*self._waiting)

    def _grant(self, *leases: Lease) -> None:
        for lease in leases:
            lease.engine = self._engine
            self._num_leases += 1
        self._settle(*leases)

    def _settle(self, *leases: Lease) -> None:
        for lease in leases:
            lease.is_settled = True
            if lease in self._waiting:
                self._waiting.remove(lease)
                if not lease.wake() and lease.engine is not None:  # it will never leave
                    lease.engine = None
                    self._num_leases -= 1

    def _closed(self) -> EngineUnavailableError:
        return EngineUnavailableError(f"The model {self.id!r} was closed.")

    # Idle

    def _arm_timer(self, after_s: float) -> None:
        """Look after a while whether it is idle; 0 for never."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if after_s:
            self._timer = threading.Timer(after_s, self._on_timer)
            self._timer.name = f"llmapi_kit idle {self.id}"
            self._timer.daemon = True
            self._timer.start()

    def _on_timer(self) -> None:
        with self._lock:
            if self._state != "loaded" or threading.current_thread() is not self._timer:
                return
            limit_s = self._settings.idle_unload_s
            left_s = self.last_used + limit_s - time.monotonic() if self.is_idle and not self._waiting else limit_s
            if left_s > 0:
                self._arm_timer(left_s)
                return
            close = self.detach()
        close()
