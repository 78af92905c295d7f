"""A process that is no part of the cluster uses it, and leaves nothing there, however it ends."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from benchmarks.processes import free_port

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
DEADLINE_S = 240
MAX_STARTS = 4  # of a head: its processes wait for each other for fixed times, which a busy machine exceeds
SCRIPT = """
import sys, time
import llmapi_kit as kit

server = kit.launch("mock", cluster=sys.argv[1], replicas={"min": 2, "num_cpus": 0.5}, port=0)
with server.client() as client:
    answer = client.completions.create(model="mock", prompt="one two three", stream=True)
    print("answer:", "".join(chunk.choices[0].text for chunk in answer), flush=True)
if sys.argv[2] == "stop":
    server.stop()
elif sys.argv[2] == "outlive":
    while "head of the Ray cluster is gone" not in server.engines[0].readiness().reason:
        time.sleep(1)  # between two looks, as readiness tells nobody of a change
    time.sleep(15)  # Ray would have ended this process by now
    server.stop()
    print("outlived", flush=True)
else:
    time.sleep(3600)  # until the test kills it
"""


def wait_until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.1)  # between two looks, at what tells nobody of a change


def is_open(port):
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


def takes_clients(port, environment):
    """A busy machine's head opens its port long before it answers, and Ray's clients give up."""
    connect = f"import ray; ray.init('ray://127.0.0.1:{port}')"
    done = subprocess.run([sys.executable, "-c", connect], env=environment, capture_output=True, timeout=DEADLINE_S)
    return done.returncode == 0


@pytest.fixture(scope="module")
def environment():
    """Of the cluster and of who uses it: a token of their own."""
    return {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}


def kill_with_all_of_its_own(process):
    """A signal to end would have a head wait half a minute for those that use it."""
    everything = [process]
    with suppress(psutil.NoSuchProcess):
        everything += process.children(recursive=True)
    for each in everything:
        with suppress(psutil.Error):
            each.kill()
    return everything


def started(command, client_port, environment):
    """The process of a head that takes clients."""
    for _ in range(MAX_STARTS):
        process = psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if takes_clients_in_time(process, client_port, environment):
            return process
        kill_with_all_of_its_own(process)
    raise AssertionError("no head of a cluster starts here")


def takes_clients_in_time(process, client_port, environment):
    """Whether it lives until then."""
    wait_until(lambda: process.poll() is not None or is_open(client_port))
    wait_until(lambda: process.poll() is not None or takes_clients(client_port, environment))
    return process.poll() is None


@contextmanager
def head_of_its_own(environment):
    """A cluster that nobody here is a part of: its process, and its addresses."""
    port, client_port = free_port(), free_port()
    folder = tempfile.mkdtemp(prefix="llmapi_kit_ray_", dir="/tmp")  # a socket's path may not be long
    options = [
        "--head",
        "--block",
        f"--port={port}",
        f"--ray-client-server-port={client_port}",
        f"--temp-dir={folder}",
        "--num-cpus=8",
        "--include-dashboard=false",
        "--disable-usage-stats",
    ]
    command = [str(Path(sys.executable).parent / "ray"), "start", *options]
    process = started(command, client_port, environment)
    try:
        yield process, {"ray": f"ray://127.0.0.1:{client_port}", "driver": f"127.0.0.1:{port}"}
    finally:
        assert not psutil.wait_procs(kill_with_all_of_its_own(process), 60)[1], "processes of Ray outlive the tests"
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def head(environment):
    """See `head_of_its_own`."""
    with head_of_its_own(environment) as head:
        yield head


@contextmanager
def user_of(address, environment, what="stay"):
    """A process that launched a model there, once it was answered."""
    with tempfile.TemporaryFile("w+") as output:
        command = [sys.executable, "-c", SCRIPT, address, what]
        process = psutil.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)

        def has_answered():
            output.seek(0)
            text = output.read()
            assert process.poll() is None or "answer:" in text, text
            return "answer: one two three" in text

        try:
            wait_until(has_answered)
            yield process, output
        finally:
            with suppress(psutil.Error):
                process.kill()
            process.wait(60)


def replicas_of(process):
    """Processes of replicas, and of whatever stands for their owner."""
    found = []
    for child in process.children(recursive=True):
        with suppress(psutil.Error):  # it just ended
            line = " ".join(child.cmdline())
            found += [child] * any(name in line for name in ("ServeReplica:", "ray::Owner", "ray::Bridge"))
    return found


def has_serve(process):
    """Whether Serve's controller runs there."""
    return any("ServeController" in " ".join(each.cmdline()) for each in process.children(recursive=True))


@pytest.mark.parametrize("way", ["ray", "driver"])
def test_a_process_that_is_killed_leaves_no_replicas_in_the_cluster(head, environment, way):
    process, addresses = head
    with user_of(addresses[way], environment) as (user, _):
        assert len(replicas_of(process)) == 3
        user.kill()
        wait_until(lambda: not replicas_of(process))
        wait_until(lambda: not has_serve(process))


def test_a_process_that_stops_its_server_leaves_nothing(head, environment):
    process, addresses = head
    with user_of(addresses["ray"], environment, "stop") as (user, _):
        assert user.wait(DEADLINE_S) == 0
        wait_until(lambda: not replicas_of(process))


def test_a_process_that_is_a_part_of_the_cluster_outlives_its_head(environment):
    """Ray ends it without a word after a minute, and a notebook's variables were lost."""
    with (
        head_of_its_own(environment) as (process, addresses),
        user_of(addresses["driver"], environment, "outlive") as (user, output),
    ):
        kill_with_all_of_its_own(process)
        code = user.wait(DEADLINE_S)
        output.seek(0)
        assert "outlived" in output.read()
        assert code == 0


def test_a_cluster_that_a_killed_process_started_ends_with_it(environment):
    with user_of("local", environment) as (user, _):
        its = user.children(recursive=True)
        assert len(replicas_of(user)) == 3
        user.kill()
        assert not psutil.wait_procs(its, DEADLINE_S)[1]
