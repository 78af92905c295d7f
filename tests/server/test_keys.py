"""`server.keys`: keys for teammates, that open at once and close at once, whoever changes them."""

from __future__ import annotations

import contextlib
import time
from datetime import datetime, timedelta, timezone

import httpx
import openai
import pytest

from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ConfigError, StoreUnavailableError
from llmapi_kit.server.keys import Keys, moment
from llmapi_kit.server.server import Server
from tests.api.conftest import KEY, serve, wait_until  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow


@pytest.fixture
def server(serve):  # noqa: F811
    return serve(MockEngine(), MockEngine(name="second"))


@pytest.fixture
def slow(serve):  # noqa: F811
    """A server whose answers take for ever, a token at a time."""
    return serve(MockEngine(reply="on and on", delay_s=0.005, num_tokens=100_000, context_length=200_000))


def status(server, key):
    headers = {"Authorization": f"Bearer {key.api_key}"}
    return httpx.get(f"{server.url}/v1/models", headers=headers, trust_env=False).status_code


def elsewhere(server):
    """The keys of a server as another process has them, that shares the database only."""
    nothing = {"base_url": str, "page_url": str, "owner_id": str}
    return Keys(server._store, f"instance {server._state.instance}", models=lambda: ["mock"], **nothing)


def states(server):
    return {row["name"]: row["state"] for row in server.keys.list()}


@contextlib.contextmanager
def streaming(server, api_key):
    """A stream under way; gives its first chunk's iterator."""
    with server.client(api_key=api_key, max_retries=0) as client:
        stream = client.completions.create(model="mock", prompt="a", stream=True, max_tokens=100_000)
        with stream:
            pieces = iter(stream)
            next(pieces)
            yield pieces


def exhaust(pieces):
    for _ in pieces:
        pass


def test_a_key_opens_at_once_and_shows_itself_only_when_it_is_asked(server, capsys):
    key = server.keys.create("ada", rpm=60, expires=timedelta(hours=1))
    assert status(server, key) == 200
    assert key.base_url == server.base_url
    for text in (repr(key), str(key), key._repr_html_(), repr(server.keys.list()), server.keys.list()._repr_html_()):
        assert "ada" in text
        assert key.api_key not in text
        assert key.prefix in text
    assert key.api_key not in "".join(server.logs(1000))


@pytest.mark.parametrize(
    ("close", "reopen", "words"),
    [
        (lambda keys: keys.revoke("ada"), None, "was revoked"),
        (lambda keys: keys.pause("ada"), lambda keys: keys.resume("ada"), "is paused"),
        (lambda keys: keys.rotate("ada"), None, "was replaced by a new one"),
    ],
    ids=["revoke", "pause", "rotate"],
)
@pytest.mark.parametrize("keys_of", [lambda server: server.keys, elsewhere], ids=["here", "elsewhere"])
def test_a_key_that_is_closed_opens_nothing_and_its_streams_end_while_others_go_on(slow, keys_of, close, reopen, words):
    key, other = slow.keys.create("ada"), slow.keys.create("grace")
    with streaming(slow, key.api_key) as cut, streaming(slow, other.api_key) as kept, streaming(slow, KEY) as owners:
        close(keys_of(slow))
        with pytest.raises(openai.APIError, match=words):
            exhaust(cut)
        assert status(slow, key) in (401, 403)
        next(kept)
        next(owners)
        assert sorted(request.key for request in slow.requests()) == ["grace", "owner"]
    if reopen is not None:
        reopen(keys_of(slow))
        wait_until(lambda: status(slow, key) == 200)


def test_a_key_that_expires_ends_its_streams(slow, monkeypatch):
    key = slow.keys.create("ada", expires=3600)
    ring = slow._state.key_check.ring
    with streaming(slow, key.api_key) as cut:
        monkeypatch.setattr(ring, "_clock", lambda: time.time() + 3601)
        with pytest.raises(openai.APIError, match="has expired"):
            exhaust(cut)
    assert status(slow, key) == 401


def test_a_rotated_key_keeps_limits_and_usage_under_a_new_secret(server):
    old = server.keys.create("ada", rpm=60, models="second")
    with server.client(api_key=old.api_key) as client:
        client.completions.create(model="second", prompt="one two")
    new = server.keys.rotate("ada")
    assert (status(server, old), status(server, new)) == (401, 200)
    (row,) = server.keys.list()
    assert (row["rpm"], row["models"], row["state"]) == (60, ["second"], "active")
    assert row["prefix"] == new.api_key[: len(row["prefix"])] != old.prefix
    assert [(row["name"], row["requests"], row["tokens"]) for row in server.keys.usage()] == [
        ("owner", 0, 0),
        ("ada", 1, 4),
    ]


def test_the_owners_new_key_leaves_teammates_alone(slow):
    key = slow.keys.create("ada")
    with streaming(slow, key.api_key) as kept, streaming(slow, KEY) as cut:
        slow.rotate_key()
        with pytest.raises(openai.APIError, match="key was changed"):
            exhaust(cut)
        next(kept)
    assert status(slow, key) == 200


def test_keys_live_with_the_servers_name():
    from llmapi_kit.config import load_settings

    def launch(name):
        server = Server([MockEngine()], host="127.0.0.1", port=0, api_key=KEY, settings=load_settings(), name=name)
        server.start()
        return server

    first = launch("team")
    key = first.keys.create("ada")
    first.stop()
    again, other = launch("team"), launch("other")
    assert (status(again, key), status(other, key)) == (200, 401)
    again.stop()
    other.stop()


def test_a_server_that_is_restarted_still_knows_its_keys(server):
    key = server.keys.create("ada")
    server.restart()
    assert status(server, key) == 200


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("owner", {}, "not owner or none"),
        ("", {}, "1 to 64 letters"),
        ("a\nb", {}, "1 to 64 letters"),
        ("x" * 65, {}, "1 to 64 letters"),
        ("ada", {"rmp": 1}, "Did you mean 'rpm'"),
        ("ada", {"rpm": 0}, "rpm is 0"),
        ("ada", {"tpm": 1.5}, "tpm is 1.5"),
        ("ada", {"concurrency": True}, "concurrency is True"),
        ("ada", {"budget": "many"}, "budget is 'many'"),
        ("ada", {"models": ["secnod"]}, "Did you mean 'second'"),
        ("ada", {"models": []}, "models is empty"),
        ("ada", {"expires": -1}, "not in the future"),
        ("ada", {"expires": float("nan")}, "not in the future"),
        ("ada", {"expires": True}, "not in the future"),
        ("ada", {"expires": "tomorrow"}, "takes seconds, a timedelta or a datetime"),
        ("ada", {"expires": datetime(2020, 1, 1)}, "not in the future"),
    ],
)
def test_what_can_be_no_key_is_refused_with_what_is_allowed(server, name, options, words):
    for make in (server.keys.create, server.invite):
        with pytest.raises(ConfigError, match=words):
            make(name, **options)
    assert server.keys.list() == []


def test_a_name_is_taken_by_a_key_and_by_an_invitation(server):
    server.keys.create("ada")
    server.invite("bob")
    for name in ("ada", "bob"):
        for make in (server.keys.create, server.invite):
            with pytest.raises(ConfigError, match="already"):
                make(name)


def test_a_time_may_be_a_length_or_a_moment():
    now = time.time()
    in_an_hour = datetime.now(timezone.utc) + timedelta(hours=1)
    for value in (3600, timedelta(hours=1), in_an_hour, in_an_hour.astimezone().replace(tzinfo=None)):
        assert abs(moment("expires", value) - now - 3600) < 60


def test_an_alias_stands_for_its_model(serve):  # noqa: F811
    server = serve()
    server.replace_engines(server.engines, {"gpt-4o": "mock"})
    server.keys.create("ada", models=["gpt-4o", "mock"])
    assert server.keys.list()[0]["models"] == ["mock"]


def test_a_server_without_a_key_gives_none():
    from llmapi_kit.config import load_settings

    server = Server([MockEngine()], host="127.0.0.1", port=0, api_key=None, settings=load_settings())
    for make in (server.keys.create, server.invite):
        with pytest.raises(ConfigError, match="asks for no key"):
            make("ada")
    server.stop()


def test_a_key_that_was_made_is_handed_over_though_the_database_fails_then(server, monkeypatch, caplog):
    def fail():
        raise StoreUnavailableError("The database does not answer.")

    with monkeypatch.context() as patched:
        patched.setattr(server._key_watch._store, "revision", fail)
        key = server.keys.create("ada")
        assert status(server, key) == 401
        assert "Keys stay as they were known until the database answers" in caplog.text
    wait_until(lambda: status(server, key) == 200)


def test_an_invitation_is_listed_until_it_is_withdrawn_and_shows_no_secret(server):
    invitation = server.invite("alice", budget=1000, open_for=60)
    assert invitation.url == f"{server.url}/#invite={invitation.code}"
    for text in (repr(invitation), str(invitation), invitation._repr_html_(), server.invitations()._repr_html_()):
        assert "alice" in text
        assert invitation.code not in text
    assert [(row["name"], row["budget"]) for row in server.invitations()] == [("alice", 1000)]
    assert states(server) == {"alice": "invited"}
    with pytest.raises(ConfigError, match="Did you mean 'alice'"):
        server.keys.withdraw("alicce")
    server.keys.withdraw("alice")
    assert server.invitations() == []
    with pytest.raises(ConfigError, match="None is open"):
        server.keys.withdraw("alice")
