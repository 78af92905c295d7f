"""The whole store, and the server that opens it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import pytest

from llmapi_kit.config import load_settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ConfigError, MissingDependencyError, StoreError, StoreUnavailableError
from llmapi_kit.server.port import bind
from llmapi_kit.server.server import Server
from llmapi_kit.store import database_url
from llmapi_kit.store.counts import Counts
from tests.api.conftest import KEY, chat, wait_until

CHAT = "/v1/chat/completions"


@pytest.fixture
def nothing_local(tmp_path, monkeypatch):
    """Every folder is on a network file system."""
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text("22 1 0:40 / / rw,relatime - fuse.drive drive rw\n")
    monkeypatch.setattr(database_url, "MOUNTINFO", mountinfo)


def test_without_an_address_it_is_a_file_of_this_users_in_home(open_stores, home):
    made = open_stores("")
    file = home / "store" / "llmapi_kit.sqlite"
    assert str(file) in str(made._database.place)
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_home_on_a_network_file_system_is_no_place_so_it_is_memory_with_one_warning(
    open_stores, nothing_local, caplog, home
):
    made = open_stores("")
    assert str(made._database.place) == "the database in memory"
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "fuse.drive" in warning
    assert "LLMAPI_KIT_DATABASE_URL" in warning
    assert "end with the server" in warning
    assert list((home / "store").iterdir()) == []
    assert asyncio.run(made.sessions.create("me", "mock", {})).owner == "me"


def test_an_address_on_a_network_file_system_is_refused(open_stores, nothing_local, tmp_path):
    with pytest.raises(ConfigError, match=r"network file system \(fuse.drive\)"):
        open_stores(f"sqlite:///{tmp_path}/x.sqlite")


def test_a_missing_driver_names_the_extra(open_stores, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "llmapi-kit\[postgres\]"'):
        open_stores("postgresql://host/db")


def test_settings_do_not_show_the_address():
    settings = load_settings(database_url="postgresql://u:secret@host/db")
    assert "secret" not in repr(settings)
    assert "secret" not in str(settings)


def test_closing_writes_the_last_counts_and_closing_twice_does_nothing(open_stores, url):
    made = open_stores(url)
    for _ in range(10):
        made.usage.count("me", "m", Counts(requests=1))
    made.close()
    made.close()
    with pytest.raises(StoreUnavailableError):
        asyncio.run(made.sessions.create("me", "mock", {}))
    [day] = open_stores(url).usage.read_sync("me", 0, 1e12)
    assert day.counts.requests == 10


@pytest.mark.slow
def test_counts_are_written_in_the_background(open_stores, url):
    made, other = open_stores(url), open_stores(url)
    made.usage.count("me", "m", Counts(requests=1))
    wait_until(lambda: other.usage.read_sync("me", 0, 1e12))
    wait_until(lambda: made.usage.num_unwritten == 0)


def test_what_could_not_be_written_at_the_end_is_said(open_stores, url, caplog):
    made = open_stores(url)
    made.usage.count("me", "m", Counts(requests=3))
    made._database.close()
    made.close()
    assert "The usage of 3 requests was not written" in caplog.text


def test_the_store_is_swept_when_it_is_opened(open_stores, url):
    made = open_stores(url)
    asyncio.run(made.sessions.create("me", "mock", {}))
    made.close()
    again = open_stores(url, session_expire_s=1e-6)
    count = "SELECT count(*) FROM llmapi_kit_sessions"
    wait_until(lambda: not again._database.run_sync(lambda connection: connection.exec_driver_sql(count).scalar()))


def test_a_server_whose_database_is_refused_binds_no_port(tmp_path):
    (tmp_path / "x.sqlite").write_bytes(b"no database" * 1000)
    held = bind("127.0.0.1", 0)
    port = held.getsockname()[1]
    held.close()
    for url, error in (("mysql://host/db", ConfigError), (f"sqlite:///{tmp_path}/x.sqlite", StoreError)):
        with pytest.raises(error):
            Server([MockEngine()], host="127.0.0.1", port=port, api_key=KEY, settings=load_settings(database_url=url))
        bind("127.0.0.1", port).close()


def test_a_server_that_finds_its_port_taken_closes_its_store(tmp_path):
    held = bind("127.0.0.1", 0)
    before = open_threads()
    with pytest.raises(Exception, match="Port"):
        Server([MockEngine()], host="127.0.0.1", port=held.getsockname()[1], api_key=KEY, settings=load_settings())
    held.close()
    assert open_threads() <= before


def open_threads():
    import threading

    return {thread.name for thread in threading.enumerate() if "llmapi_kit" in thread.name}


@pytest.mark.slow
def test_two_servers_of_one_process_share_a_database(serve_on, url):
    one, other = serve_on(url), serve_on(url)
    made = [ask(server, store=True) for server in (one, other) for _ in range(3)]
    for server in (one, other):
        assert [each["id"] for each in get(server, CHAT)["data"]] == [each["id"] for each in made]
        server._store.usage.settle()
    for server in (one, other):
        [day] = server.usage()
        assert (day["model"], day["requests"]) == ("mock", 6)


@pytest.mark.slow
def test_a_server_that_starts_anew_has_what_the_last_one_stored(serve_on, url):
    server = serve_on(url)
    made = ask(server, store=True)
    session = asyncio.run(server._store.sessions.create(server._state.key_check.key_id, "mock", {}))
    server.stop(0)
    with pytest.raises(StoreUnavailableError, match="closed"):
        server.usage()
    again = serve_on(url)
    assert get(again, f"{CHAT}/{made['id']}")["id"] == made["id"]
    assert asyncio.run(again._store.sessions.get(again._state.key_check.key_id, session.id)) == session
    assert [day["requests"] for day in again.usage()] == [1]


@pytest.mark.slow
def test_a_postgres_server_that_is_away_costs_503_where_it_is_needed_and_nothing_elsewhere(serve_on, postgres, http):
    server = serve_on(postgres.new_database())
    client = http(server)
    made = ask(server, store=True)
    postgres.stop()
    try:
        assert client.post(CHAT, json=chat()).status_code == 200
        for response in (client.get("/v1/usage"), client.get(CHAT), client.post(CHAT, json=chat(store=True))):
            assert response.status_code == 503, response.text
            assert response.json()["error"]["code"] == "database_unavailable"
            assert response.headers["retry-after"] == "5"
            assert "llmapi_kit_pg" not in response.text
        streamed = client.post(CHAT, json=chat(store=True, stream=True)).text
        assert '"code": "database_unavailable"' in streamed.replace('":"', '": "')
        assert "[DONE]" not in streamed
    finally:
        postgres.start()
    assert client.get(f"{CHAT}/{made['id']}").status_code == 200
    [day] = client.get("/v1/usage").json()["data"]
    assert (day["requests"], day["failed"]) == (4, 0), "what was counted meanwhile is there"


@pytest.mark.slow
def test_loading_a_model_imports_no_database_and_opening_one_that_is_new_or_up_to_date_imports_little(tmp_path):
    script = """
import json, sys
import llmapi_kit as kit

def imported():
    return [name for name in ("sqlalchemy", "sqlalchemy.orm", "alembic", "psycopg") if name in sys.modules]

model = kit.load("mock")
seen = [imported()]
for _ in ("new", "up to date"):
    kit.launch(model, port=0).stop()
    seen.append(imported())
print(json.dumps(seen))
"""
    environment = {**os.environ, "LLMAPI_KIT_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=60)
    assert json.loads(done.stdout) == [[], ["sqlalchemy"], ["sqlalchemy"]], done.stderr


@pytest.fixture
def serve_on(serve):
    """Makes live servers on a database."""
    return lambda url: serve(database_url=url)


def ask(server, **fields):
    with server.client(max_retries=0) as client:
        messages = [{"role": "user", "content": "Hello"}]
        return client.chat.completions.create(model="mock", messages=messages, **fields).model_dump()


def get(server, path):
    import httpx

    response = httpx.get(server.url + path, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False, timeout=30)
    assert response.status_code == 200, response.text
    return response.json()
