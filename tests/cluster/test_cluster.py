"""A model in a Ray cluster keeps every promise of an engine, whatever dies there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import psutil
import pytest

from llmapi_kit import kit
from llmapi_kit.cluster import app, connection, deployment
from llmapi_kit.cluster.bridge import Bridge, BridgedHandle
from llmapi_kit.cluster.engine import ClusterEngine
from llmapi_kit.cluster.owner import appoint, dismiss
from llmapi_kit.config import load_settings
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import (
    ClusterError,
    EngineUnavailableError,
    InvalidRequestError,
    ModelTooLargeError,
    QueueFullError,
    RequestError,
)
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.server.keys import Keys
from llmapi_kit.store.store import open_store
from llmapi_kit.testing import EngineContract
from llmapi_kit.testing.events import answers_of, collect
from llmapi_kit.types import Accepted, Delta, Failed, Finished, Readiness

from . import engines
from .engines import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
DEADLINE_S = 240
NUM_SLOW_TOKENS = 20


class TestClusterEngine(EngineContract):
    deadline_s = DEADLINE_S
    num_examples = 10

    @pytest.fixture(autouse=True)
    def _cluster(self, mock):
        self.mock = mock

    def make_engine(self):
        return self.mock()


def prompt(text, max_tokens=None):
    return GenerationRequest(prompt=text, sampling=SamplingParams(max_tokens=max_tokens))


def run(work, deadline_s=DEADLINE_S):
    async def within_deadline():
        return await asyncio.wait_for(work, deadline_s)

    return asyncio.run(within_deadline())


def pids_of(app_name):
    """Processes of an application's replicas."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it just ended
            if f"ServeReplica:{app_name}:" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


async def answered(engine, text, max_tokens=None):
    """All events of a request; a refusal is the last one."""
    events = []
    try:
        async with contextlib.aclosing(engine.generate(prompt(text, max_tokens))) as stream:
            async for event in stream:
                events.append(event)  # noqa: PERF401 - those before an error count
    except RequestError as exc:
        events.append(Failed(exc))
    return events


async def answered_slowly(engine, number):
    """The same, for clients that wait for something else meanwhile, and cost little."""
    return await answered(engine, f"slowly {number}", NUM_SLOW_TOKENS)


async def ask_while_replicas_die(engine, app_name, num_streams, num_kills):
    """The events of everything that was asked while replicas were killed one after the other."""
    found, is_over = [], asyncio.Event()

    async def client(number):
        while not is_over.is_set():
            found.append(await answered_slowly(engine, number))

    clients = [asyncio.create_task(client(number)) for number in range(num_streams)]
    for number in range(num_kills):
        await until(lambda: engine.stats().num_running > num_streams // 2 and len(pids_of(app_name)) > 1)
        victim = random.choice(pids_of(app_name))
        os.kill(victim, signal.SIGKILL)
        await until(lambda gone=victim: gone not in pids_of(app_name))
        num_finished = engine.stats().num_finished
        await until(lambda num=num_finished: engine.stats().num_finished > num)
        print(f"killed {number + 1}, {len(found)} answers", flush=True)
    is_over.set()
    await asyncio.gather(*clients)
    return found


@pytest.mark.parametrize(
    ("replicas", "streams", "kills"),
    [(2, 16, 2), pytest.param(3, 64, 20, marks=[pytest.mark.cluster, pytest.mark.timeout(3600)])],
)
def test_replicas_that_die_lose_no_request(start_model, mock, replicas, streams, kills):
    name = "mock" if replicas == 2 else "three"
    make = mock if replicas == 2 else start_model(engines.make_slow_mock, name, replicas=replicas)
    engine = make()
    found = run(ask_while_replicas_die(engine, name, streams, kills), kills * DEADLINE_S)
    for events in found:
        kinds = [type(event) for event in events]
        assert kinds[0] in (Accepted, Failed)
        assert kinds[-1] in (Finished, Failed)
        assert set(kinds[1:-1]) <= {Delta}
        assert kinds[-1] is not Finished or sum(event.num_tokens for event in events[1:-1]) == NUM_SLOW_TOKENS
        assert kinds[-1] is not Failed or isinstance(events[-1].error, EngineUnavailableError)
        assert kinds[-1] is not Failed or events[-1].error.retry_after_s
    print(f"{len(found)} answers while {kills} replicas were killed")
    ends = Counter(type(events[-1]) for events in found)
    stats = engine.stats()
    assert ends == {Finished: stats.num_finished, Failed: stats.num_failed}
    assert stats.num_running == stats.num_queued == stats.num_cancelled == 0
    run(until(lambda: len(pids_of(name)) == replicas))


def test_no_request_fails_while_replicas_are_replaced(mock, start_model):
    engine = mock()

    async def main():
        found, is_over = [], asyncio.Event()

        async def client(number):
            while not is_over.is_set():
                found.append(await answered_slowly(engine, number))

        clients = [asyncio.create_task(client(number)) for number in range(8)]
        before = set(pids_of("mock"))
        await asyncio.to_thread(start_model, partial(engines.make_mock), "mock", replicas=2, max_slots=8, max_queue=9)
        await until(lambda: not before & set(pids_of("mock")))
        is_over.set()
        await asyncio.gather(*clients)
        return found

    found = run(main())
    assert found
    assert {type(events[-1]) for events in found} == {Finished}


def test_a_full_cluster_refuses_with_when_to_come_back(mock, tmp_path):
    engine, gate, most = mock(), tmp_path / "gate", 2 * (8 + 8 + 8)

    async def main():
        tasks = [asyncio.create_task(answered(engine, f"wait-for {gate} {number}")) for number in range(most + 20)]
        await until(lambda: sum(task.done() for task in tasks) == 20)
        gate.touch()
        return await asyncio.gather(*tasks)

    ends = [events[-1] for events in run(main())]
    refused = [end.error for end in ends if isinstance(end, Failed)]
    assert len(refused) == 20
    assert sum(isinstance(end, Finished) for end in ends) == most
    for error in refused:
        assert isinstance(error, QueueFullError)
        assert error.retry_after_s


def test_a_conversation_goes_on_where_its_cache_is(mock):
    engine = mock()

    async def turns(number, num_turns):
        pids, text = set(), f"This is conversation {number}, which has a long beginning. " * 10
        for turn in range(num_turns):
            events = await collect(engine.generate(prompt(f"{text} who?")))
            pids.add(answers_of(events)[0])
            text += f"Then, in turn {turn}, something else is said. " * 10
        return pids

    async def main():
        where = [await turns(number, num_turns=4) for number in range(8)]
        assert [len(pids) for pids in where] == [1] * 8
        # A lot decides where a new one begins, so any few of them may be on one replica
        while len(set.union(*where)) < 2:
            where.append(await turns(len(where), num_turns=1))

    run(main())


def test_a_client_that_leaves_ends_the_work_there(mock, tmp_path):
    engine, gate = mock(), tmp_path / "gate"

    async def main():
        async with contextlib.aclosing(engine.generate(prompt(f"wait-for {gate}"))) as events:
            while not isinstance(await anext(events), Delta):
                pass
            assert not gate.exists()
        await until(gate.exists)

    run(main())


def test_what_loading_raises_there_is_raised_here(start_model, monkeypatch):
    monkeypatch.setattr(deployment, "MAX_START_TRIES", 1)
    with pytest.raises(ModelTooLargeError, match="no memory for it"):
        start_model(engines.fail_to_make, "failing")


def test_a_notebooks_server_answers_from_the_cluster_until_it_stops(proxy_url):
    server = kit.launch("mock", cluster="auto", replicas={"num_cpus": 0.5}, port=0)
    try:
        assert kit.launch("mock", cluster="auto", replicas={"num_cpus": 0.5}, port=0) is server
        with server.client() as client:
            answer = client.completions.create(model="mock", prompt="one two")
        assert answer.choices[0].text == "one two"
        assert server.stats()["mock"]["num_finished"] == 1
        engine = server.engines[0]
        assert engine.readiness().ready
    finally:
        server.stop()
    assert not engine.readiness().ready
    assert not connection._users


def test_what_replicas_log_is_in_the_servers_log_and_who_owns_them_takes_them_along(proxy_url, caplog):
    caplog.set_level("INFO", logger="llmapi_kit")
    server = kit.launch("mock", cluster="auto", replicas={"num_cpus": 0.5}, port=0)
    try:
        written = re.compile(r"replica \w+: mock is loaded in process \d+")
        run(until(lambda: any(written.search(line) for line in server.logs(500))))
        engine, (app_name,) = server.engines[0], connection._users
        dismiss(app_name)  # as Ray does where this process dies
        run(until(lambda: f"has no application {app_name!r}" in engine.readiness().reason))
    finally:
        server.stop()


def test_the_app_serves_the_api_behind_serves_proxy(proxy_url, monkeypatch):
    from ray import serve

    monkeypatch.setenv("LLMAPI_KIT_API_KEY", "sk-of-the-cluster-0123456789")
    arguments = {"models": [{"name": "mock", "served_name": "one"}], "replicas": {"num_cpus": 0.5}}
    serve.run(app({**arguments, "aliases": {"gpt": "one"}, "database_url": "sqlite://"}), name="app")
    try:
        with httpx.Client(base_url=proxy_url, timeout=DEADLINE_S) as client:
            assert client.get("/v1/models").status_code == 401
            client.headers["Authorization"] = "Bearer sk-of-the-cluster-0123456789"
            assert [each["id"] for each in client.get("/v1/models").json()["data"]] == ["one", "gpt"]
            body = {"model": "gpt", "prompt": "one two", "stream": True}
            with client.stream("POST", "/v1/completions", json=body) as response:
                lines = [line for line in response.iter_lines() if line]
            assert lines[-1] == "data: [DONE]"
            assert client.post("/v1/completions", json={**body, "nonsense": 1}).status_code == 400
    finally:
        serve.delete("app", _blocking=False)


@pytest.mark.cluster
def test_ingress_replicas_with_one_postgres_let_pass_what_a_key_may_together(proxy_url, postgres, monkeypatch):
    from ray import serve

    monkeypatch.setenv("LLMAPI_KIT_API_KEY", "sk-of-the-cluster-0123456789")
    url = postgres.new_database()
    arguments = {"models": ["mock"], "replicas": {"num_cpus": 0.5}, "ingress_replicas": 2, "database_url": url}
    serve.run(app(arguments), name="two")
    store = open_store(load_settings(database_url=url))
    made = {"models": lambda: ["mock"], "base_url": str, "page_url": str, "owner_id": str}
    try:
        key = Keys(store, "cluster", **made).create("ada", rpm=3).api_key
        with httpx.Client(base_url=proxy_url, timeout=DEADLINE_S, headers={"Authorization": f"Bearer {key}"}) as client:
            run(until(lambda: all(client.get("/v1/key").status_code == 200 for _ in range(20))))
            with ThreadPoolExecutor(8) as pool:
                ask = partial(client.post, "/v1/completions", json={"model": "mock", "prompt": "one"})
                statuses = Counter(answer.status_code for answer in pool.map(lambda _: ask(), range(24)))
        # One more where a minute ends meanwhile. Each for itself they would be 6, and by shares 2
        assert statuses in (Counter({200: 3, 429: 21}), Counter({200: 4, 429: 20}))
    finally:
        serve.delete("two")
        store.close()


def test_a_cluster_without_room_says_so(proxy_url, monkeypatch):
    monkeypatch.setattr(deployment, "NO_ROOM_S", 0.0)
    with pytest.raises(ClusterError, match="has no room"):
        kit.launch("mock", cluster="auto", replicas={"num_cpus": 1000}, port=0)


def test_a_process_outside_of_the_cluster_asks_through_a_bridge(mock, tmp_path):
    """Ray Client, which it would have besides, is Ray's."""
    through = mock()
    engine = ClusterEngine(BridgedHandle(appoint("mock", Bridge)), through.info, find_readiness=through.readiness)
    request = prompt("one two three")
    assert answers_of(run(collect(engine.generate(request)))) == answers_of(run(collect(through.generate(request))))
    assert run(engine.embed(["one"])) == run(through.embed(["one"]))
    with pytest.raises(InvalidRequestError):
        run(engine.detokenize([10**9]))

    async def leave(gate):
        async with contextlib.aclosing(engine.generate(prompt(f"wait-for {gate}"))) as events:
            while not isinstance(await anext(events), Delta):
                pass
        await until(gate.exists)

    run(leave(tmp_path / "gate"))
    engine.close()
    dismiss("mock")
    assert isinstance(run(answered(engine, "one"))[0].error, EngineUnavailableError)


def test_a_cluster_out_of_reach_says_that_it_may_ask_for_a_token(monkeypatch):
    import ray

    def refuse(*args, **options):
        raise ConnectionError("ray client connection timeout")

    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ClusterError, match=r"'ray://head:10001' can't be used: .* timeout. .* RAY_AUTH_MODE=token"):
        connection._init("ray://head:10001")


def test_a_connection_that_is_lost_is_an_error_of_ours(monkeypatch):
    class Lost:
        def __getattr__(self, name):
            return self

        def remote(self, *arguments):
            raise Exception("Ray Client is not connected.")

    monkeypatch.setattr("llmapi_kit.cluster.engine.MAX_TRIES", 1)
    info = MockEngine().info
    engine = ClusterEngine(BridgedHandle(Lost()), info, find_readiness=lambda: Readiness(False, "lost"))
    (end,) = run(answered(engine, "one"))
    assert isinstance(end.error, EngineUnavailableError)
    assert "The connection to the cluster was lost: Ray Client is not connected." in end.error.message
    with pytest.raises(EngineUnavailableError):
        run(engine.embed(["one"]))
