"""What every engine promises, checked on those that need no model; `test_local_contract.py` has those that do."""

from __future__ import annotations

import asyncio

import pytest

from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.engines.renamed_engine import renamed
from llmapi_kit.testing import EngineContract
from tests.loading.lazy_models import Machine

pytestmark = pytest.mark.kernel


class TestMockEngine(EngineContract):
    def make_engine(self):
        return MockEngine(delay_s=0.002, num_tokens=180)


class TestRenamedEngine(EngineContract):
    def make_engine(self):
        return renamed(MockEngine(delay_s=0.002, num_tokens=180), "another")


class TestLazyEngine(EngineContract):
    def make_engine(self):
        engine = Machine().model("lazy", reply=None, delay_s=0.002, num_tokens=180)
        asyncio.run(engine.prepare())
        return engine
