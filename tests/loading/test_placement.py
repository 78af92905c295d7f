"""`process`, `replicas` and `devices` of a load: what each means, and what it can't be."""

from __future__ import annotations

import os
from functools import partial

import psutil
import pytest

from llmapi_kit import kit
from llmapi_kit.checkpoints.fit import MemoryNeed
from llmapi_kit.engines.process.engine import ProcessEngine
from llmapi_kit.engines.replicas import ReplicatedEngine
from llmapi_kit.errors import ConfigError, ModelTooLargeError
from llmapi_kit.loading.load_request import resolve
from llmapi_kit.loading.placement import HERE, Placement
from tests.engines.process.engines import make_once

pytestmark = [pytest.mark.skipif(os.name != "posix", reason="made for Linux and macOS"), pytest.mark.slow]


@pytest.fixture
def others():
    """Processes that other tests' engines have."""
    return set(psutil.Process().children())


def placed(**options):
    return resolve("mock", given=options).placement


def test_each_way_to_say_it():
    assert placed() == placed(process=False) == HERE
    assert placed(process=True) == placed(replicas=1) == Placement((None,))
    assert placed(replicas=3, process=True) == Placement((None, None, None))
    assert placed(devices=[0, 1]) == placed(devices=(0, "cuda:1"), replicas=2) == Placement(("cuda:0", "cuda:1"))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mock", {"process": "yes"}, "process is 'yes'; it must be True or False"),
        ("mock", {"replicas": 0}, "replicas is 0; it must be a number from 1 to 64"),
        ("mock", {"replicas": True}, "replicas is True"),
        ("mock", {"replicas": 2, "process": False}, "process=False does not go with replicas"),
        ("mock", {"devices": "0,1"}, r"devices is '0,1'; it must be a list of GPUs, such as \[0, 1\]"),
        ("mock", {"devices": []}, "devices is"),
        ("mock", {"devices": [-1]}, "devices has -1"),
        ("mock", {"devices": [0] * 65}, "devices names 65"),
        ("mock", {"devices": [0, 1], "replicas": 3}, "replicas is 3, and devices names 2"),
        ("pocket", {"devices": [0, 1], "device": "cuda"}, "device and devices both say where"),
        ("openai:gpt-5", {"process": True, "api_key": "k"}, "computed elsewhere, so process"),
        ("openai:gpt-5", {"replicas": 2, "api_key": "k"}, "computed elsewhere, so replicas"),
    ],
)
def test_what_can_not_be_is_told(name, options, words):
    with pytest.raises(ConfigError, match=words):
        resolve(name, given=options)


def test_replicas_need_memory_each_unless_they_have_a_card_each():
    one = MemoryNeed("cpu", 10, 20, 30)
    assert HERE.need(one) == Placement((None,)).need(one) == one
    assert Placement((None, None)).need(one) == MemoryNeed("cpu", 20, 40, 60)
    assert Placement(("cuda:0", "cuda:1")).need(one) == one


def test_a_model_in_a_process_of_its_own_is_found_again_by_the_same_call(others):
    model = kit.load("mock", process=True)
    try:
        assert isinstance(model.engine, ProcessEngine)
        assert model.ask("one two") == "one two"
        assert model is kit.load("mock", process=True)
        assert kit.load("mock") is not model
        with kit.launch(model, port=0).client() as client:
            assert client.models.list().data[0].id == "mock"
    finally:
        kit.stop_all()
    assert set(psutil.Process().children()) <= others


def test_replicas_are_as_many_processes_with_their_share_of_the_cores(others):
    model = kit.load("mock", replicas=2)
    try:
        assert isinstance(model.engine, ReplicatedEngine)
        children = set(psutil.Process().children()) - others
        assert len(children) == 2
        share = str(max(1, os.cpu_count() // 2))
        assert {child.environ()["OMP_NUM_THREADS"] for child in children} == {share}
        assert model.ask("one two") == "one two"
        assert "2 replicas" in model.info.description
    finally:
        kit.stop_all()
    assert set(psutil.Process().children()) <= others


def make_once_with(mark, options):
    return make_once(mark)


def test_where_one_replica_can_not_be_made_none_stays(tmp_path, others):
    two = Placement((None, None))
    with pytest.raises(ConfigError, match="can't be sent"):
        two.make(lambda options: None, {}, "m")
    with pytest.raises(ModelTooLargeError, match="no memory"):
        two.make(partial(make_once_with, tmp_path / "mark"), {}, "m")
    assert set(psutil.Process().children()) <= others
