"""The clients' own tests pass against a live server, all but those with a reason."""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
from pathlib import Path

import pytest
from anthropic._data import DEPRECATED_MODELS

from llmapi_kit.config import load_settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.server import endpoint
from llmapi_kit.server.server import Server

from .client_suite import ANTHROPIC, OPENAI, run_suite, split_client, unpack
from .reasons import ANTHROPIC_REASONS, NUM_CLIENTS, OPENAI_REASONS
from .stored import fill

pytestmark = pytest.mark.slow

REASONS = {OPENAI: OPENAI_REASONS, ANTHROPIC: ANTHROPIC_REASONS}
# The anthropic client warns of these and asks for them all the same.
ALIASES = {OPENAI: {}, ANTHROPIC: dict.fromkeys(DEPRECATED_MODELS, ANTHROPIC.models[0])}
BASES = {OPENAI: "/v1", ANTHROPIC: ""}
# How many there are, and how many of them pass; also in docs/api.md.
NUMBERS = {OPENAI: (555, 321), ANTHROPIC: (125, 95)}
CLIENTS = pytest.mark.parametrize("client", REASONS, ids=lambda client: client.package)
CASES = [
    pytest.param(client, test, reason, id=f"{client.package}-{test}")
    for client, reasons in REASONS.items()
    for reason in reasons
    for test in reason.tests
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What each of a client's tests said."""
    return functools.cache(lambda client: run(client, tmp_path_factory))


def run(client, folders):
    suite = unpack(client, folders.mktemp("suite"))
    settings = load_settings(home=folders.mktemp("home"))
    engines = [MockEngine(name=name) for name in client.models]
    aliases = {name: model for name, model in ALIASES[client].items() if name not in client.models}
    with pytest.MonkeyPatch.context() as patched:  # a key of the tests has spaces, which a user's may not have
        patched.setattr(endpoint, "check_key_format", lambda key: None)
        server = Server(engines, host="127.0.0.1", port=0, api_key=client.api_key, settings=settings, aliases=aliases)
    asyncio.run(fill(server._store))
    server.start()
    try:
        return run_suite(client, suite, server.url + BASES[client])
    finally:
        server.stop(drain_s=0)


@CLIENTS
def test_the_tests_are_those_of_the_client_that_is_installed(client):
    assert importlib.metadata.version(client.package) == client.version


@CLIENTS
def test_every_test_passes_or_has_a_reason(outcomes, client):
    problems = {
        test: said
        for test, said in outcomes(client).items()
        if said and not any(reason.covers(*split_client(test)) for reason in REASONS[client])
    }
    assert problems == {}


@pytest.mark.parametrize(("client", "test", "reason"), CASES)
def test_every_reason_still_holds(outcomes, client, test, reason):
    said = {name: outcome for name, outcome in outcomes(client).items() if split_client(name)[0] == test}
    said = {name: outcome for name, outcome in said.items() if reason.covers(*split_client(name))}
    num_clients = sum(NUM_CLIENTS[each] for each in reason.clients)
    assert len(said) == num_clients, "the client has no such test any more; remove the reason"
    assert [name for name, outcome in said.items() if outcome is None] == [], "it passes now; remove the reason"
    assert [outcome for outcome in said.values() if reason.error not in outcome] == [], "it fails in another way"


@CLIENTS
def test_no_test_has_two_reasons(client):
    tests = [(test, each) for reason in REASONS[client] for test in reason.tests for each in reason.clients]
    assert len(set(tests)) == len(tests)


@CLIENTS
def test_as_many_pass_as_is_said(outcomes, client):
    said = list(outcomes(client).values())
    assert (len(said), said.count(None)) == NUMBERS[client]


@CLIENTS
def test_the_documentation_has_the_numbers(client):
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    num_tests, num_passed = NUMBERS[client]
    words = f"Of the {num_tests} tests that the `{client.package}` client has for these routes, {num_passed} pass"
    assert words in " ".join(page.split())
