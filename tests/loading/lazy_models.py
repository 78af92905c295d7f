"""Lazily loaded models without weights: what loads, when, and how much memory there is, as a test says."""

from __future__ import annotations

import threading
import time

from llmapi_kit.checkpoints.fit import MemoryNeed
from llmapi_kit.checkpoints.spec import ModelSpec
from llmapi_kit.config import Settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.loading.lazy_engine import LazyEngine
from llmapi_kit.loading.lazy_model import LazyModel
from llmapi_kit.loading.model_memory import ModelMemory

DEADLINE_S = 60.0


class Machine:
    """Memory for so many models, each of which takes one unit, and who is loading on it.

    Attributes:
        size: units of memory.
        begun: ids in the order their loads began in.
        made: ids in the order they were loaded in.
        open: engines that are loaded now, by id.
        num_releases: how often garbage was collected; only counted, as each takes a while in a large process.
        most_at_once: loads that ran at the same time, at most.
    """

    def __init__(self, size=100):
        self.size = size
        self.num_releases = 0
        self.begun = []
        self.made = []
        self.open = {}
        self.most_at_once = 0
        self.model_memory = ModelMemory(lambda device: self.size - len(self.open))
        self._num_loading = 0
        self._lock = threading.Lock()
        self._engines = []

    def model(self, name, *, gate=None, error=None, need=1, pause_s=0.0, settings=None, kind=None, **options):
        """A model that is loaded when it is asked for.

        Args:
            name: its id.
            gate: an event that its loading waits for.
            error: called before each load; what it returns is raised.
            need: units of memory.
            pause_s: how long loading takes.
            settings: of the engine.
            kind: of engine; `Closing` unless given.
            options: of `MockEngine`.
        """

        kind = kind or Closing

        def make():
            self.begun.append(name)
            with self._lock:
                self._num_loading += 1
                self.most_at_once = max(self.most_at_once, self._num_loading)
            try:
                time.sleep(pause_s)
                if gate is not None:
                    assert gate.wait(DEADLINE_S), "the gate was never opened"
                if error is not None and (raised := error()) is not None:
                    raise raised
                self.made.append(name)
                self.open[name] = kind(self, name, options)
                return self.open[name]
            finally:
                with self._lock:
                    self._num_loading -= 1

        size = MemoryNeed("cpu", need, need, need)
        spec = ModelSpec(name, name, "folder")
        engine = LazyEngine(LazyModel(spec, make, lambda: size, self.model_memory, settings or Settings()))
        self._engines.append(engine)
        return engine

    def release_memory(self):
        """In place of the real one."""
        self.num_releases += 1
        return 0

    def close(self):
        """Close all that was made here."""
        for engine in self._engines:
            engine.close()


class Closing(MockEngine):
    """A mock that gives its memory back when it is closed."""

    def __init__(self, machine, name, options):
        super().__init__(**{"reply": f"I am {name}", **options}, name=f"{name} itself")
        self._machine, self._id = machine, name

    def close(self):
        super().close()
        if self._machine.open.get(self._id) is self:
            del self._machine.open[self._id]
