"""The models of this process: loaded once, found again by the same call, and unloaded when nobody uses them any more.

The last step of a load. What `llmapi_kit.kit` calls; knows nothing of servers. Blocking, but for models that are loaded
when they are asked for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import nullcontext

from llmapi_kit.config import Settings, load_settings
from llmapi_kit.engines.base import Engine
from llmapi_kit.loading.lazy_engine import LazyEngine
from llmapi_kit.loading.lazy_model import LazyModel
from llmapi_kit.loading.load_request import LoadRequest
from llmapi_kit.loading.model import Model
from llmapi_kit.loading.model_memory import ModelMemory

logger = logging.getLogger(__name__)


class LoadedModels:
    """Every model that `load` made in this process.

    Args:
        lock: held while a model is loaded, so that two calls at once load it once.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self.model_memory = ModelMemory()
        self._lock = lock
        self._models: dict[tuple[object, str], Model] = {}

    def load(self, request: LoadRequest, *, is_lazy: bool = False, settings: Settings | None = None) -> Model:
        """The model that the same call made before, or a new one.

        Args:
            request: which.
            is_lazy: leave loading it to the first request; one that needs no memory of this machine is made at once.
            settings: how long requests wait for it, and when it is unloaded, if it is loaded by a request.

        Raises:
            LlmApiKitError: loading it failed.
        """
        with self._lock:
            model = self._known(request)
            if model is None:
                if is_lazy and not request.source.is_light:
                    model = self._lazy(request, settings or load_settings())
                else:
                    model = self._eager(request)
                self._models[request.key] = model
        if isinstance(model.engine, LazyEngine):
            if settings is not None:
                model.engine.apply(settings)
            if not is_lazy:
                model.engine.load()  # without the lock: it may wait for others
        return model

    def unload(self, engines: Sequence[Engine], used: Collection[int], drain_s: float = 0.0) -> None:
        """Close models that no server uses any more, and give their memory back.

        Args:
            engines: those that a server no longer answers with; whoever made one by hand keeps it.
            used: ids of engines that others answer with.
            drain_s: how long they may finish what they are answering.
        """
        dropped = {id(engine) for engine in engines} - set(used)
        models = {key: model for key, model in self._models.items() if id(model.engine) in dropped}
        try:
            deadline = time.monotonic() + drain_s
            while any(_is_busy(model.engine) for model in models.values()) and time.monotonic() < deadline:
                time.sleep(0.02)
        finally:  # also when the cell is interrupted meanwhile
            for key, model in models.items():
                num_bytes = model.close()
                self._models.pop(key, None)
                logger.info("Unloaded %s; %.2f GB of GPU memory given back", model.name, num_bytes / 1e9)

    def close_all(self) -> None:
        """Close every model."""
        for model in self._models.values():
            model.close()
        self._models.clear()

    def _known(self, request: LoadRequest) -> Model | None:
        known = self._models.get(request.key)
        if known is None or known.is_closed:
            return None
        if known.engine.readiness().ready:
            return known
        known.close()  # its engine died or hangs; two would not fit where one is large
        return None

    def _eager(self, request: LoadRequest) -> Model:
        is_heavy = not request.source.is_light
        with self.model_memory.turn() if is_heavy else nullcontext():
            started = time.perf_counter()
            if is_heavy:
                self.model_memory.make_room(request.spec.id, request.need(), lambda: True, None)
            return Model(request.make(), time.perf_counter() - started)

    def _lazy(self, request: LoadRequest, settings: Settings) -> Model:
        request = request.with_room_for_adapters()
        lazy = LazyModel(request.spec, request.make, request.need, self.model_memory, settings)
        return Model(LazyEngine(lazy, request.adapters))


def _is_busy(engine: Engine) -> bool:
    stats = engine.stats()
    return stats.num_running + stats.num_queued > 0
