"""A key's limits hold for all servers with one Postgres together, and for each alone while that is away."""

from __future__ import annotations

import asyncio
import contextlib
import types
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import literal_column

from llmapi_kit.api import minute_counts, shared_counts
from llmapi_kit.api.shared_counts import SharedCounts
from llmapi_kit.config import load_settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import RateLimitError
from llmapi_kit.server import key_watch
from llmapi_kit.server.server import Server
from llmapi_kit.store import key_counts
from llmapi_kit.store.key_counts import KeyCounts
from llmapi_kit.store.minute_window import WINDOW_S
from llmapi_kit.store.stored_key import KeyLimits
from tests.api.conftest import KEY, error_of, wait_until

from .conftest import Held

pytestmark = []  # these need a Postgres server, so not on the other Pythons
THREE = {"prompt": "one two three", "max_tokens": 3}
HALF_A_MINUTE = 1_700_000_070.0


@pytest.fixture
def clock(monkeypatch):
    """Those of the database and of this process stand, so that no minute ends meanwhile."""

    def stand(now=HALF_A_MINUTE):
        stopped = types.SimpleNamespace(time=lambda: now)
        monkeypatch.setattr(key_counts, "NOW", literal_column(f"{now}::double precision"))
        for module in ("llmapi_kit.api.minute_counts", minute_counts.MemoryStorage.__module__):
            monkeypatch.setattr(f"{module}.time", stopped)

    monkeypatch.setattr(shared_counts, "ANSWER_S", 60.0)  # a busy machine is no database that is away
    stand()
    return stand


@pytest.fixture
def servers(postgres, clock):
    """Two that could stand behind one address."""
    settings = load_settings(database_url=postgres.new_database())
    engines = [MockEngine(reply="on and on", num_tokens=100_000, context_length=200_000, delay_s=0.002) for _ in "ab"]
    made = [
        Server([engine], host="127.0.0.1", port=0, api_key=KEY, name="both", settings=settings) for engine in engines
    ]
    for server in made:
        server.start()
    yield made
    for server in made:
        server.stop(drain_s=0)


@pytest.fixture
def keyed(servers, http):
    """Makes clients of both with one key of these limits."""

    def make(**limits):
        key = servers[0].keys.create("ada", **limits)
        clients = [http(server, headers={"Authorization": f"Bearer {key.api_key}"}) for server in servers]
        wait_until(lambda: clients[1].get("/v1/key").status_code == 200)
        return clients

    return make


def limits_of(response):
    return {name[12:]: value for name, value in response.headers.items() if name.startswith("x-ratelimit-")}


@pytest.mark.slow
def test_of_many_requests_at_two_servers_as_many_pass_as_the_key_may(keyed):
    clients = keyed(rpm=7)
    with ThreadPoolExecutor(8) as pool:
        ask = [clients[number % 2] for number in range(20)]
        statuses = list(pool.map(lambda client: client.post("/v1/completions", json=THREE).status_code, ask))
    assert sorted(statuses) == [200] * 7 + [429] * 13
    for client in clients:
        refused = client.post("/v1/completions", json=THREE)
        assert "'ada' may use 7 requests a minute" in error_of(refused, 429)["message"]
        assert limits_of(refused)["remaining-requests"] == "0"
        assert refused.headers["retry-after"] == "31"  # when the first seventh of this minute has slid out


@pytest.mark.slow
def test_there_is_room_again_in_the_next_minutes(keyed, clock):
    one, other = keyed(rpm=1)
    assert one.post("/v1/completions", json=THREE).status_code == 200
    error_of(other.post("/v1/completions", json=THREE), 429)
    clock(HALF_A_MINUTE + 2 * WINDOW_S)
    assert other.post("/v1/completions", json=THREE).status_code == 200


@pytest.mark.slow
def test_tokens_are_corrected_to_what_was_used_for_both(keyed, servers):
    def tokens_counted():
        return servers[0]._store._database.run_sync(
            lambda connection: connection.exec_driver_sql("SELECT tokens FROM llmapi_kit_key_minutes").scalar()
        )

    one, other = keyed(tpm=20)
    assert limits_of(one.post("/v1/completions", json=THREE))["remaining-tokens"] == "14"
    wait_until(lambda: tokens_counted() == 6)
    answer = other.post("/v1/completions", json={"prompt": "word " * 5, "max_tokens": 3})
    assert answer.status_code == 200
    assert limits_of(answer)["remaining-tokens"] == "6"
    wait_until(lambda: tokens_counted() == 14)
    error_of(one.post("/v1/completions", json={"prompt": "word " * 5, "max_tokens": 3}), 429)


@pytest.mark.slow
def test_a_request_that_runs_at_one_server_holds_its_place_at_the_other(keyed):
    one, other = keyed(concurrency=1)
    with one.stream("POST", "/v1/completions", json={"prompt": "a", "max_tokens": 100_000, "stream": True}) as stream:
        lines = stream.iter_lines()
        next(lines)
        refused = other.post("/v1/completions", json=THREE)
        assert "has 1 request under way, as many as it may" in error_of(refused, 429)["message"]
    wait_until(lambda: other.post("/v1/completions", json=THREE).status_code == 200)


@pytest.mark.slow
def test_a_request_that_runs_for_long_keeps_its_place(keyed, servers, clock, monkeypatch):
    one, other = keyed(concurrency=1)
    with one.stream("POST", "/v1/completions", json={"prompt": "a", "max_tokens": 100_000, "stream": True}) as stream:
        lines = stream.iter_lines()
        next(lines)
        clock(HALF_A_MINUTE + 20)
        monkeypatch.setattr(key_watch, "COUNT_EVERY_S", 0.0)
        servers[0]._key_watch.refresh()
        clock(HALF_A_MINUTE + 45)
        error_of(other.post("/v1/completions", json=THREE), 429)


@pytest.mark.slow
def test_a_client_that_asks_one_thing_after_the_other_is_never_too_many(keyed, monkeypatch):
    monkeypatch.setattr(shared_counts, "PAUSES_S", (0.02,) * 1000)
    clients = keyed(concurrency=1)
    assert {clients[number % 2].post("/v1/completions", json=THREE).status_code for number in range(20)} == {200}


@pytest.mark.slow
def test_what_another_server_refuses_takes_nothing_here(keyed):
    one, other = keyed(rpm=3, concurrency=1)
    with one.stream("POST", "/v1/completions", json={"prompt": "a", "max_tokens": 100_000, "stream": True}) as stream:
        lines = stream.iter_lines()
        next(lines)
        for _ in range(5):
            error_of(other.post("/v1/completions", json=THREE), 429)
    for _ in range(2):
        wait_until(lambda: other.post("/v1/completions", json=THREE).status_code == 200)
    wait_until(lambda: "3 requests a minute" in other.post("/v1/completions", json=THREE).text)


@pytest.mark.slow
def test_while_the_database_is_away_each_server_counts_for_itself(keyed, servers, monkeypatch):
    clients = keyed(rpm=3)
    monkeypatch.setattr(shared_counts, "AWAY_S", 600.0)
    for server in servers:
        server._store._database._workers.close(30)
    for client in clients:
        statuses = [client.post("/v1/completions", json=THREE).status_code for _ in range(5)]
        assert statuses == [200] * 3 + [429] * 2
    logs = [line for line in servers[0].logs(100) if "counts the limits of keys by itself" in line]
    assert len(logs) == len(servers)


def taken(counts, limits):
    def refuse_a_second(used):
        return RateLimitError("one runs") if used.num_running else None

    return asyncio.run(counts.take("key", limits, 0, refuse_a_second))


def wait_until_free(counts, limits):
    def is_free():
        with contextlib.suppress(RateLimitError):
            return taken(counts, limits) is not None

    wait_until(is_free)


def test_a_server_that_died_holds_no_request_for_long(postgres, open_database, clock):
    url, limits = postgres.new_database(), KeyLimits(concurrency=1)
    dead, other = (SharedCounts(KeyCounts(open_database(url))) for _ in "ab")
    taken(dead, limits)
    with pytest.raises(RateLimitError, match="one runs"):
        taken(other, limits)
    clock(HALF_A_MINUTE + 20)
    dead.renew()
    clock(HALF_A_MINUTE + 40)
    with pytest.raises(RateLimitError, match="one runs"):
        taken(other, limits)
    clock(HALF_A_MINUTE + 60)
    taken(other, limits)


def test_a_client_that_leaves_while_it_is_counted_holds_nothing(postgres, open_database, clock):
    url, limits = postgres.new_database(), KeyLimits(concurrency=1)
    counts = SharedCounts(KeyCounts(open_database(url)))

    async def leave():
        task = asyncio.ensure_future(counts.take("key", limits, 0, lambda used: None))
        await asyncio.sleep(0)  # it has asked the database
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(leave())
    wait_until_free(SharedCounts(KeyCounts(open_database(url))), limits)


def test_a_database_that_is_too_slow_is_not_waited_for_and_holds_nothing(
    postgres, open_database, clock, monkeypatch, caplog
):
    monkeypatch.setattr(shared_counts, "ANSWER_S", 0.01)
    database, limits, held = open_database(postgres.new_database()), KeyLimits(concurrency=1), Held()
    counts = SharedCounts(KeyCounts(database))

    def hold(connection):
        database.lock(connection, "limits of key")
        held(connection)

    database.submit(hold)
    assert held.begun.wait(30)
    assert taken(counts, limits) is None
    assert "did not answer within 0.01 s" in caplog.text
    held.release()
    monkeypatch.setattr(shared_counts, "ANSWER_S", 30.0)
    wait_until_free(SharedCounts(KeyCounts(database)), limits)


def test_what_counts_no_more_is_forgotten(postgres, open_database, clock):
    database = open_database(postgres.new_database())
    counts = KeyCounts(database)
    taken(SharedCounts(counts), KeyLimits(concurrency=1, rpm=1))
    clock(HALF_A_MINUTE + 2 * WINDOW_S)
    database.run_sync(counts.remove_expired_in)
    tables = ("llmapi_kit_key_minutes", "llmapi_kit_key_leases")
    left = database.run_sync(
        lambda connection: [connection.exec_driver_sql(f"SELECT count(*) FROM {each}").scalar() for each in tables]
    )
    assert left == [0, 0]
