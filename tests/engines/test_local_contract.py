"""The contract of engines, on those that compute here."""

from __future__ import annotations

import asyncio

from llmapi_kit.checkpoints.fit import MemoryNeed
from llmapi_kit.checkpoints.spec import ModelSpec
from llmapi_kit.config import Settings
from llmapi_kit.loading.lazy_engine import LazyEngine
from llmapi_kit.loading.lazy_model import LazyModel
from llmapi_kit.loading.model_memory import ModelMemory
from llmapi_kit.testing import EngineContract

from .conftest import make_slow_local


class TestLocalEngine(EngineContract):
    def make_engine(self):
        return make_slow_local()


class TestLazyLocalEngine(EngineContract):
    def make_engine(self):
        spec = ModelSpec("fake", "fake", "folder")
        engine = LazyEngine(LazyModel(spec, make_slow_local, MemoryNeed, ModelMemory(), Settings()))
        asyncio.run(engine.prepare())
        return engine
