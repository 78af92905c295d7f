"""`llmapi-kit keys` changes the keys of a server that runs elsewhere, which knows of it within a second."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta

import httpx
import pytest
from typer.testing import CliRunner

from llmapi_kit.cli.app import app
from llmapi_kit.cli.keys import read_expiry
from llmapi_kit.config import load_settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ConfigError
from llmapi_kit.server.server import Server
from tests.api.conftest import KEY, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def launch():
    """Launches servers; all are stopped at the end."""
    made = []

    def make(name="team", api_key=KEY, **settings):
        settings = load_settings(**settings)
        server = Server([MockEngine()], host="127.0.0.1", port=0, api_key=api_key, settings=settings, name=name)
        server.start()
        made.append(server)
        return server

    yield make
    for server in made:
        server.stop(drain_s=0)


def run(*arguments):
    result = CliRunner().invoke(app, ["keys", *arguments])
    return result.exit_code, result.stdout.strip(), result.stderr.strip()


def status(server, key):
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.get(f"{server.url}/v1/models", headers=headers, trust_env=False).status_code


def test_a_key_goes_through_its_life(launch):
    server = launch()
    exit_code, key, told = run("create", "ada", "--rpm", "60", "--model", "mock", "--expires", "7d")
    assert (exit_code, key.startswith("sk-llmapi-")) == (0, True)
    assert server.base_url in told
    assert key not in told
    wait_until(lambda: status(server, key) == 200)
    listed = run("list")[1]
    assert "ada" in listed
    assert "active" in listed
    assert key not in listed
    for command, expected in (("pause", 403), ("resume", 200)):
        assert run(command, "ada") == (0, "", "")
        wait_until(lambda expected=expected: status(server, key) == expected)
    new = run("rotate", "ada")[1]
    wait_until(lambda: (status(server, key), status(server, new)) == (401, 200))
    with server.client(api_key=new) as client:
        client.completions.create(model="mock", prompt="one two three")
    server._store.usage.settle()
    owner, ada = run("usage", "--days", "1")[1].splitlines()[1:]
    assert owner.split() == ["owner", "0", "0", "0", "0", "0"]
    assert ada.split() == ["ada", "1", "0", "3", "3", "6"]
    assert run("revoke", "ada") == (0, "", "")
    wait_until(lambda: status(server, new) == 401)


def test_an_invitation_is_a_link_to_the_server(launch):
    server = launch()
    exit_code, url, _ = run("invite", "alice", "--budget", "1000")
    assert exit_code == 0
    assert url.startswith(f"{server.url}/#invite=")
    wait_until(server._state.key_check.ring.all)
    code = url.partition("#invite=")[2]
    response = httpx.post(f"{server.url}/invitations", json={"code": code}, trust_env=False)
    assert response.json()["name"] == "alice"


def test_a_server_is_chosen_by_its_name_and_else_the_newest_one(launch):
    old, new = launch("old"), launch("new")
    run("create", "ada")
    run("create", "bob", "--name", "old")
    assert [row["name"] for row in new.keys.list()] == ["ada"]
    assert [row["name"] for row in old.keys.list()] == ["bob"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create", "owner"], "not owner or none"),
        (["create", "ada", "--rpm", "0"], "rpm is 0"),
        (["create", "ada", "--model", "mokc"], "Did you mean 'mock'"),
        (["create", "ada", "--expires", "soon"], "--expires is 'soon'"),
        (["revoke", "nobody"], "no key 'nobody'"),
        (["list", "--name", "taem"], "Did you mean 'team'"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_is_allowed(launch, arguments, words):
    launch()
    exit_code, out, error = run(*arguments)
    assert (exit_code, out) == (1, "")
    assert words in error
    assert len(error.splitlines()) == 1


def test_without_a_server_it_says_so():
    assert run("list") == (1, "", "llmapi-kit: No server runs on this machine. Launch one first.")


def test_a_server_without_a_key_or_with_another_database_is_refused(launch):
    launch(api_key=None)
    assert "asks for no key" in run("list")[2]
    launch(database_url="sqlite://")
    assert "keeps its keys in the database in memory" in run("list")[2]


def test_it_is_a_command_of_the_program():
    done = subprocess.run(
        [sys.executable, "-m", "llmapi_kit", "keys", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("create", "list", "revoke", "rotate", "pause", "resume", "usage"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90m", timedelta(minutes=90)),
        ("1.5h", timedelta(minutes=90)),
        ("4w", timedelta(weeks=4)),
        ("2030-12-31", datetime(2030, 12, 31)),
        ("2030-12-31T18:00", datetime(2030, 12, 31, 18)),
    ],
)
def test_an_end_may_be_a_length_or_a_moment(text, expected):
    assert read_expiry(text) == expected


@pytest.mark.parametrize("text", ["", "7", "d", "7 d", "tomorrow"])
def test_what_is_no_end_is_refused(text):
    with pytest.raises(ConfigError, match="write 90m"):
        read_expiry(text)
