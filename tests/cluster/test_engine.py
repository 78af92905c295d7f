"""What an engine over a deployment makes of its stream. The deployment is a stand-in; no cluster runs."""

from __future__ import annotations

import asyncio

import pytest
from ray.exceptions import RayActorError

from llmapi_kit.cluster.engine import ClusterEngine
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.errors import GenerationError
from llmapi_kit.testing.events import collect
from llmapi_kit.types import Accepted, Delta, EngineInfo, Failed, Finished, Readiness

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what Ray Serve imports


class DyingDeployment:
    """A deployment's handle, and its one response: some items, and then its replica is gone."""

    def __init__(self, *items):
        self._items = list(items)

    def options(self, **options):
        return self

    def remote(self, *arguments):
        return self

    async def __anext__(self):
        if not self._items:
            raise RayActorError
        return [self._items.pop(0)]

    def cancel(self):
        pass


def answer(*items, n=1):
    engine = ClusterEngine(
        DyingDeployment(*items), EngineInfo("it", 100, created=0), find_readiness=lambda: Readiness(True)
    )
    return asyncio.run(collect(engine.generate(GenerationRequest(prompt="a", n=n)))), engine.stats()


def test_an_answer_that_is_over_stays_whole_when_its_replica_dies():
    items = [Accepted(1), Delta("a"), Finished("stop", 1, 1)]
    events, stats = answer(*items)
    assert events == items
    assert (stats.num_finished, stats.num_failed) == (1, 0)


def test_an_answer_that_failed_fails_once_when_its_replica_dies():
    items = [Accepted(1), Delta("a"), Failed(GenerationError("The model failed."))]
    events, stats = answer(*items)
    assert events == items
    assert (stats.num_finished, stats.num_failed) == (0, 1)


def test_of_two_answers_one_that_is_over_does_not_stand_for_the_other():
    items = [Accepted(1), Delta("a"), Finished("stop", 1, 1)]
    *events, error = answer(*items, n=2)[0]
    assert events == items
    assert isinstance(error, Failed)
