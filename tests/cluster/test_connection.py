"""How a process gets to a cluster, and what it does when that is gone. Ray is a stand-in; no cluster runs."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading

import pytest
import ray

from llmapi_kit.cluster import connection, deployment, head_watch
from llmapi_kit.cluster.engine import ClusterEngine
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.errors import ClusterError, EngineUnavailableError
from llmapi_kit.testing.events import collect
from llmapi_kit.types import EngineInfo, Readiness

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what Ray Serve imports
DEADLINE_S = 60
REFUSED = ConnectionAbortedError("Starting Ray client server failed")


@pytest.fixture
def listening():
    """The address of a program that listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"ray://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def refusals(monkeypatch):
    """Errors that ray.init raises, one after the other, before it connects; and how often it was called."""
    errors, calls = [], []

    def init(address, **options):
        calls.append(address)
        if errors:
            raise errors.pop(0)

    monkeypatch.setattr(ray, "init", init)
    return errors, calls


@pytest.mark.parametrize("error", [REFUSED, ConnectionError("slow")])
def test_a_head_that_fails_to_take_a_client_is_asked_once_more(listening, refusals, error, caplog):
    errors, calls = refusals
    errors.append(error)
    assert connection._init(listening) == "connection"
    assert calls == [listening] * 2
    assert f"({error})" in caplog.text


def test_a_head_that_takes_no_client_in_time_is_given_up(listening, refusals, monkeypatch):
    errors, calls = refusals
    errors += [ConnectionError("ray client connection timeout")] * 2
    monkeypatch.setattr(connection, "CLIENT_TRIES_S", -1.0)
    with pytest.raises(ClusterError, match="can't be used: ray client connection timeout"):
        connection._init(listening)
    assert len(calls) == 1


def test_where_nothing_listens_nobody_is_asked_twice(refusals):
    errors, calls = refusals
    errors += [ConnectionError("ray client connection timeout")] * 2
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ClusterError, match="timeout"):
        connection._init(f"ray://127.0.0.1:{port}")
    assert len(calls) == 1


class Head:
    """What `GcsClient` is to a head that answers so many times more.

    Attributes:
        num_answers: left.
        num_asked: so far.
    """

    def __init__(self, num_answers):
        self.num_answers, self.num_asked = num_answers, 0

    def __call__(self, address):
        return self

    def check_alive(self, nodes, timeout):
        self.num_asked += 1
        if self.num_asked > self.num_answers:
            raise ray.exceptions.RpcError("Timed out while waiting for GCS to become available.")


@pytest.fixture
def quick(monkeypatch):
    """Time is counted in questions, and does not pass."""
    monkeypatch.setattr(head_watch, "ASK_EVERY_S", 0.001)
    monkeypatch.setattr(head_watch, "LOST_AFTER_S", 0.01)


def test_a_head_is_gone_when_it_has_not_answered_for_long(quick, monkeypatch):
    head = Head(5)
    monkeypatch.setattr("ray._raylet.GcsClient", head)
    assert head_watch._is_lost("here:1", threading.Event())
    assert head.num_asked > 5 + 1


def test_nobody_is_told_of_a_head_that_is_not_watched_any_more(quick, monkeypatch):
    monkeypatch.setattr("ray._raylet.GcsClient", Head(0))
    over = threading.Event()
    over.set()
    assert not head_watch._is_lost("here:1", over)


def test_a_connection_is_made_to_outlive_the_head_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv(head_watch.OPTION, raising=False)
    with head_watch.staying():
        assert int(os.environ[head_watch.OPTION]) == head_watch.STAY_S
    assert head_watch.OPTION not in os.environ
    monkeypatch.setenv(head_watch.OPTION, "30")
    with head_watch.staying():
        assert os.environ[head_watch.OPTION] == "30"
    assert os.environ[head_watch.OPTION] == "30"


@pytest.fixture
def lost(monkeypatch):
    """The head of this process's cluster is gone."""
    monkeypatch.setattr(connection, "_is_lost", threading.Event())
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    connection._lose()


class Unasked:
    """A cluster that nobody may ask."""

    def __getattr__(self, name):
        raise AssertionError(f"it is asked for {name}")


class Handle:
    """Of a deployment that nobody may ask."""

    def options(self, **options):
        return Unasked()


def test_without_its_cluster_a_model_says_so_and_nothing_is_asked_any_more(lost, monkeypatch):
    monkeypatch.setattr("ray.serve.delete", Unasked())
    find = {"find_readiness": lambda: Readiness(True), "find_loss": connection.why_lost}
    engine = ClusterEngine(Handle(), EngineInfo("it", 100, created=0), **find)
    for attempt in (collect(engine.generate(GenerationRequest(prompt="a"))), engine.tokenize("a")):
        with pytest.raises(EngineUnavailableError, match="head of the Ray cluster is gone"):
            asyncio.run(attempt)
    assert "restart it" in engine.readiness().reason
    deployment.stop("it")
    with pytest.raises(ClusterError, match="head of the Ray cluster is gone"):
        connection.connect("auto", "somebody")
    assert not connection._users


def test_a_cluster_that_does_not_answer_is_not_ready_after_a_while(monkeypatch):
    over = threading.Event()

    def find():
        over.wait(DEADLINE_S)
        return Readiness(True)

    monkeypatch.setattr("llmapi_kit.cluster.engine.READINESS_AGE_S", 0.0)
    monkeypatch.setattr("llmapi_kit.cluster.engine.READINESS_WAIT_S", 0.01)
    engine = ClusterEngine(Handle(), EngineInfo("it", 100, created=0), find_readiness=find)
    assert engine.readiness().ready
    monkeypatch.setattr("llmapi_kit.cluster.engine.SILENT_AFTER_S", 0.0)
    assert "The cluster has not answered for" in engine.readiness().reason
    over.set()
