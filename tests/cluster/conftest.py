"""A Ray cluster of this machine's, shared by all tests of a process, and gone after them."""

from __future__ import annotations

import gc
import logging
import warnings
from functools import partial

import psutil
import pytest

from benchmarks.processes import free_port
from llmapi_kit.cluster import connection, deployment
from llmapi_kit.cluster.engine import ClusterEngine
from llmapi_kit.cluster.replicas import Replicas
from llmapi_kit.config import load_settings
from tests.store.conftest import postgres  # noqa: F401 - a fixture

from . import engines

NUM_CPUS = 6  # Ray starts so many workers at once; replicas take half of one, and an ingress one
OBJECT_STORE_BYTES = 100_000_000
UNNEEDED = ("start_monitor", "start_log_monitor", "start_api_server")  # of Ray, a process of Python each
# Of Serve's controller, 5 s and 10 s. A proxy takes longer to start on a machine that other tests keep busy
PROXY_TIMEOUTS = ("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S")
# Ray's workers would be 15 nicer than other tests' programs, and starve beside them
NICENESS = "RAY_worker_niceness"
HEALTH_CHECK_S = 0.5


@pytest.fixture(scope="session")
def proxy_url():
    """Where Serve's proxy answers; the cluster runs."""
    before = set(psutil.Process().children())
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        for name in PROXY_TIMEOUTS:
            patch.setenv(name, "120")
        patch.setenv(NICENESS, "0")
        warnings.simplefilter("ignore")  # of what Ray imports, and of the processes of a start that failed
        import ray
        from ray import serve
        from ray._private.node import Node

        for name in UNNEEDED:
            patch.setattr(Node, name, lambda *arguments, **options: None)
        connection.start_here(num_cpus=NUM_CPUS, object_store_memory=OBJECT_STORE_BYTES)
        roots = set(psutil.Process().children()) - before
        gc.collect()
    ray.cloudpickle.register_pickle_by_value(engines)
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    yield f"http://127.0.0.1:{port}"
    of_ray = [each for one in roots if one.is_running() for each in (one, *one.children(recursive=True))]
    ray.shutdown()
    assert not psutil.wait_procs(of_ray, 60)[1], "processes of Ray outlive the tests"


@pytest.fixture(scope="session")
def start_model(proxy_url):
    """A function that deploys a model, and returns one that makes an engine over it for each call."""

    def start_model(make_engine, name, *, replicas=1, **settings):
        numbers = Replicas(replicas, replicas, num_cpus=0.5)
        model = deployment.DeployedModel(partial(make_engine, None), name, load_settings(**settings), numbers)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(deployment, "HEALTH_CHECK_S", HEALTH_CHECK_S)
            handle = deployment.start(model, name)
        info = handle.describe.remote().result().value
        find = partial(deployment.readiness, name, name)
        most = model.replicas.most_requests(model.settings)
        return lambda: ClusterEngine(handle, info, find_readiness=find, max_requests=most)

    return start_model


@pytest.fixture(scope="session")
def mock(start_model):
    """A function that makes an engine over two replicas of a mock."""
    return start_model(engines.make_mock, "mock", replicas=2, max_slots=8, max_queue=8)
