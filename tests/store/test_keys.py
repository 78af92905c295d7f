"""Keys in the database: one of each name, a revision that tells of every change, an invitation that is taken once."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import openai
import pytest

from llmapi_kit.config import load_settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ConfigError
from llmapi_kit.server.server import Server
from llmapi_kit.store.keys import KeyStore
from llmapi_kit.store.stored_key import KeyLimits, StoredKey
from tests.api.conftest import KEY, wait_until

from .conftest import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def keys(database, clock):
    return KeyStore(database, "8000", clock)


def key_of(name, **fields):
    return StoredKey(**{"id": f"id of {name}", "name": name, "created_at": 1.0, "digest": name.encode(), **fields})


def invitation_of(name, **fields):
    return key_of(name, digest=None, code_digest=f"code of {name}".encode(), code_expires_at=1e12, **fields)


def test_a_key_comes_back_as_it_was(keys):
    limits = KeyLimits(models=("a/b", "c"), rpm=1, tpm=2**40, concurrency=3, budget=2**50)
    every = [key_of("ada", prefix="sk-llmapi-abcd", expires_at=9.5, limits=limits), invitation_of("李", is_paused=True)]
    for key in every:
        keys.add(key)
    assert keys.all() == (2, every)


def test_another_server_has_keys_of_its_own(database, keys):
    other = KeyStore(database, "\0 odd \ud800 name")
    keys.add(key_of("ada"))
    other.add(key_of("ada", id="2", digest=b"2"))
    assert [key.id for key in keys.all()[1]] == ["id of ada"]
    assert [key.id for key in other.all()[1]] == ["2"]
    other.update("ada", is_paused=True)
    assert (keys.revision(), other.revision()) == (1, 2)
    assert not keys.all()[1][0].is_paused


def test_every_change_makes_the_revision_larger(keys):
    seen = [keys.revision()]
    for change in (
        lambda: keys.add(key_of("ada")),
        lambda: keys.add(invitation_of("bob")),
        lambda: keys.update("ada", is_paused=True),
        lambda: asyncio.run(keys.exchange(b"code of bob", b"digest", "sk-")),
    ):
        change()
        seen.append(keys.revision())
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("make", [key_of, invitation_of])
def test_a_name_is_given_once_until_it_is_revoked(keys, make):
    keys.add(make("ada"))
    with pytest.raises(ConfigError, match="for 'ada' already"):
        keys.add(key_of("ada", id="2", digest=b"2"))
    assert keys.revision() == 1, "nothing was changed"
    keys.update("ada", revoked_at=2.0)
    keys.add(key_of("ada", id="2", digest=b"2"))
    assert keys.update("ada", is_paused=True).id == "2"


def test_an_invitation_that_nobody_took_in_time_frees_its_name(keys, clock):
    keys.add(key_of("ada", digest=None, code_digest=b"code", code_expires_at=clock.now + 10))
    clock.now += 11
    keys.add(key_of("ada", id="2"))
    assert asyncio.run(keys.exchange(b"code", b"digest", "sk-")).digest is None


def test_what_is_not_there_is_told_with_the_name_that_was_meant(keys):
    with pytest.raises(ConfigError, match=r"no key 'ada'. There are no keys yet"):
        keys.update("ada", is_paused=True)
    keys.add(key_of("ada"))
    with pytest.raises(ConfigError, match=r"no key 'adda'. Did you mean 'ada'\?"):
        keys.update("adda", is_paused=True)
    keys.update("ada", revoked_at=2.0)
    with pytest.raises(ConfigError, match="'ada' was revoked"):
        keys.update("ada", is_paused=True)


def test_an_invitation_can_be_revoked_but_has_no_key_to_rotate(keys):
    keys.add(invitation_of("bob"))
    with pytest.raises(ConfigError, match="not exchanged yet"):
        keys.update("bob", digest=b"new")
    keys.update("bob", revoked_at=2.0)
    assert asyncio.run(keys.exchange(b"code of bob", b"digest", "sk-")).digest is None


def test_of_many_who_take_an_invitation_at_once_one_gets_the_key(keys):
    keys.add(invitation_of("bob"))

    async def race():
        return await asyncio.gather(*(keys.exchange(b"code of bob", f"digest {i}".encode(), "sk-") for i in range(10)))

    taken = asyncio.run(race())
    (key,) = keys.all()[1]
    assert {each.digest for each in taken} == {key.digest}
    assert keys.revision() == 2
    assert asyncio.run(keys.exchange(b"no such code", b"digest", "sk-")) is None


@pytest.mark.parametrize(
    ("fields", "now", "state"),
    [
        ({}, 5, "active"),
        ({"expires_at": 5.0}, 4.9, "active"),
        ({"expires_at": 5.0}, 5, "expired"),
        ({"is_paused": True}, 5, "paused"),
        ({"is_paused": True, "expires_at": 1.0}, 5, "expired"),
        ({"is_paused": True, "expires_at": 1.0, "revoked_at": 2.0}, 5, "revoked"),
        ({"digest": None, "code_expires_at": 6.0}, 5, "invited"),
        ({"digest": None, "code_expires_at": 5.0}, 5, "expired"),
        ({"digest": None, "code_expires_at": 6.0, "expires_at": 5.0}, 5, "expired"),
    ],
)
def test_a_key_knows_whether_it_opens(fields, now, state):
    assert key_of("ada", **fields).state(now) == state


def test_nothing_of_a_key_shows_its_digest():
    key = key_of("ada", digest=b"secret 1", code_digest=b"secret 2")
    assert "secret" not in repr(key)


@contextlib.contextmanager
def two_servers(url):
    """With one name and one database, as two machines would be."""
    engine = MockEngine(reply="on and on", delay_s=0.005, num_tokens=100_000, context_length=200_000)
    settings = load_settings(database_url=url)
    servers = [
        Server([engine], host="127.0.0.1", port=0, api_key=KEY, settings=settings, name="team") for _ in range(2)
    ]
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.stop(drain_s=0)


@pytest.mark.slow
def test_what_one_server_changes_another_with_its_database_soon_knows(url):
    with two_servers(url) as (one, two):
        key = one.keys.create("ada")
        headers = {"Authorization": f"Bearer {key.api_key}"}
        with httpx.Client(base_url=two.url, headers=headers, trust_env=False) as client:
            wait_until(lambda: client.get("/v1/models").status_code == 200)
            with two.client(api_key=key.api_key, max_retries=0) as sdk:
                stream = sdk.completions.create(model="mock", prompt="a", stream=True, max_tokens=100_000)
                next(iter(stream))
                one.keys.revoke("ada")
                with pytest.raises(openai.APIError, match="was revoked"):
                    for _ in stream:
                        pass
            assert client.get("/v1/models").status_code == 401


def test_no_secret_is_in_the_database(tmp_path):
    settings = load_settings(database_url=f"sqlite:///{tmp_path}/store.sqlite")
    server = Server([MockEngine()], host="127.0.0.1", port=0, api_key=KEY, settings=settings)
    server.start()
    secrets = [server.keys.create("ada").api_key, server.keys.rotate("ada").api_key, server.invite("bob").code]
    secrets.append(
        httpx.post(f"{server.url}/invitations", json={"code": secrets[-1]}, trust_env=False).json()["api_key"]
    )
    written = [path.read_bytes() for path in tmp_path.iterdir() if path.is_file()]
    server.stop()
    written += [path.read_bytes() for path in tmp_path.iterdir() if path.is_file()]
    assert any(b"bob" in each for each in written)
    for secret in secrets:
        assert not any(secret.encode() in each for each in written)
