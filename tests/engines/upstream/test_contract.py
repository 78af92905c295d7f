"""What every engine promises holds for one that asks a server of ours, whichever engine answers there."""

from __future__ import annotations

from typing import ClassVar

import pytest

from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.config import load_settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.loading.load_request import make_engine
from llmapi_kit.testing import EngineContract
from tests.api.conftest import KEY, serving
from tests.engines.conftest import make_slow_local

pytestmark = pytest.mark.slow


@pytest.fixture(scope="class")
def behind(request, tmp_path_factory):
    """A live server with the engine that the class names."""
    with serving(tmp_path_factory.mktemp("home"), request.cls.answers()) as server:
        request.cls.server = server
        yield


class InFront(EngineContract):
    """An upstream engine in front of that server."""

    cannot: ClassVar = frozenset({"token_counts"})  # how long the prompt is, an upstream says at the end only

    def make_engine(self):
        return make_engine(parse_spec(f"kit:{self.server.url}/v1"), load_settings(), api_key=KEY)


@pytest.mark.usefixtures("behind")
class TestInFrontOfTheMock(InFront):
    @staticmethod
    def answers():
        return MockEngine(delay_s=0.002, num_tokens=60)


@pytest.mark.usefixtures("behind")
class TestInFrontOfALocalEngine(InFront):
    @staticmethod
    def answers():
        return make_slow_local()
