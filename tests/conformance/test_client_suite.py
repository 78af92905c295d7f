"""The openai client's own tests pass against a live server, all but those with a reason."""

from __future__ import annotations

import asyncio
import importlib.metadata
from pathlib import Path

import pytest

from llmapi_kit.api.auth import KeyCheck
from llmapi_kit.config import load_settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.server import endpoint
from llmapi_kit.server.server import Server
from llmapi_kit.store.completions import CompletionStore
from llmapi_kit.store.stored_completion import StoredCompletion, encode

from .client_suite import API_KEY, MODELS, VERSION, fetch_archive, run_suite, split_client, unpack
from .reasons import NUM_CLIENTS, REASONS

pytestmark = pytest.mark.slow

# Also in docs/api.md.
NUM_PASSED = 221
CASES = [(test, reason) for reason in REASONS for test in reason.tests]


# The tests name it without having made it. Its question is the assistant's, the only role that the client's type has.
STORED = StoredCompletion(
    id="completion_id",
    owner=KeyCheck(API_KEY).key_id,
    model=MODELS[0],
    body=encode({"id": "completion_id", "object": "chat.completion", "created": 1, "model": MODELS[0], "choices": []}),
    messages=[("completion_id-0", encode({"id": "completion_id-0", "role": "assistant", "content": "Well?"}))],
)


class Restoring(CompletionStore):
    """Puts back what is deleted: the tests delete the same completion fifteen times."""

    async def delete(self, owner, completion_id):
        was_there = await super().delete(owner, completion_id)
        if was_there:
            await self.add(STORED)
        return was_there


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What each of the client's tests said."""
    suite = unpack(fetch_archive(), tmp_path_factory.mktemp("suite"))
    settings = load_settings(home=tmp_path_factory.mktemp("home"))
    engines = [MockEngine(name=name) for name in MODELS]
    with pytest.MonkeyPatch.context() as patched:  # its key has spaces, which a user's may not have
        patched.setattr(endpoint, "check_key_format", lambda key: None)
        server = Server(engines, host="127.0.0.1", port=0, api_key=API_KEY, settings=settings)
    store = server._store
    store.completions = Restoring(store._database, max_completions=10, max_bytes=10_000_000, expire_s=86400)
    asyncio.run(store.completions.add(STORED))
    server.start()
    try:
        return run_suite(suite, f"{server.url}/v1")
    finally:
        server.stop(drain_s=0)


def test_the_tests_are_those_of_the_client_that_is_installed():
    assert importlib.metadata.version("openai") == VERSION


def test_every_test_passes_or_has_a_reason(outcomes):
    problems = {
        test: said
        for test, said in outcomes.items()
        if said and not any(reason.covers(*split_client(test)) for reason in REASONS)
    }
    assert problems == {}


@pytest.mark.parametrize(("test", "reason"), CASES, ids=[test for test, _ in CASES])
def test_every_reason_still_holds(outcomes, test, reason):
    said = {name: outcomes[name] for name in outcomes if split_client(name)[0] == test}
    said = {name: outcome for name, outcome in said.items() if reason.covers(*split_client(name))}
    num_clients = sum(NUM_CLIENTS[client] for client in reason.clients)
    assert len(said) == num_clients, "the client has no such test any more; remove the reason"
    assert [name for name, outcome in said.items() if outcome is None] == [], "it passes now; remove the reason"
    assert [outcome for outcome in said.values() if reason.error not in outcome] == [], "it fails in another way"


def test_no_test_has_two_reasons():
    tests = [(test, client) for reason in REASONS for test in reason.tests for client in reason.clients]
    assert len(set(tests)) == len(tests)


def test_as_many_pass_as_is_said(outcomes):
    assert sum(said is None for said in outcomes.values()) == NUM_PASSED


def test_the_documentation_has_the_number():
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    words = f"Of the 360 tests that the `openai` client has for these routes, {NUM_PASSED} pass"
    assert words in " ".join(page.split())
