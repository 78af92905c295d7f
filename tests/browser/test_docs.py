"""/docs in a real Chromium: nothing without the key, everything with it, and the key nowhere but in memory."""

from __future__ import annotations

import pytest

from llmapi_kit.engines.mock import MockEngine
from tests.api.conftest import KEY, serving

from .lab import new_page

pytestmark = pytest.mark.slow

REMEMBERED = "() => JSON.stringify([localStorage, sessionStorage, document.cookie, history.state])"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("home"), MockEngine(name="the-model")) as made:
        yield made


@pytest.fixture
def docs(chromium, server):
    """A page at /docs, and the URLs of all that it asked for."""
    with new_page(chromium) as lab:
        urls = []
        lab.page.on("request", lambda request: urls.append(request.url))
        lab.page.goto(f"{server.url}/docs")
        yield lab, urls
        assert [url for url in urls if not url.startswith(server.url)] == [], "it asked somebody else"
        assert [url for url in urls if KEY in url] == []


def enter(lab, key):
    lab.page.get_by_label("API key").fill(key)
    lab.page.get_by_role("button", name="Open", exact=True).click()


def operation(lab, name):
    """An endpoint, opened."""
    block = lab.page.locator(f"[id$='-{name}']")
    block.locator(".opblock-summary-control").click()
    return block


def execute(block, *expected):
    """Send the request that stands there and wait until its answer shows these texts."""
    block.get_by_role("button", name="Execute", exact=True).click()
    answer = block.locator(".live-responses-table .response")
    for text in expected:
        answer.filter(has_text=text).wait_for()


def test_with_the_key_endpoints_can_be_read_and_tried_and_the_key_is_kept_in_memory_only(docs):
    lab, _ = docs
    page = lab.page
    enter(lab, KEY)
    page.get_by_text("/v1/chat/completions", exact=True).first.wait_for()
    assert page.get_by_label("API key").is_hidden()
    assert {"/v1/models", "/v1/embeddings", "/healthz"} <= set(page.locator(".opblock-summary-path").all_inner_texts())

    chat = operation(lab, "create_chat_completion")
    assert "What is the capital of France?" in chat.locator("textarea").input_value()
    execute(chat, "200", '"content": "What is the capital of France?"')  # the mock repeats the question
    curl = chat.locator(".curl-command").inner_text()
    assert "Authorization: Bearer YOUR_API_KEY" in curl

    chat.locator(".examples-select select").select_option(label="A stream")
    execute(chat, "200", "data: [DONE]")

    assert KEY not in page.content()
    assert KEY not in page.evaluate(REMEMBERED)
    assert KEY not in page.url
    assert page.context.storage_state() == {"cookies": [], "origins": []}
    assert lab.errors == []

    page.get_by_role("button", name="Forget the key", exact=True).click()
    page.get_by_label("API key").wait_for()
    assert page.get_by_label("API key").input_value() == ""
    assert page.locator(".opblock").count() == 0


def test_with_a_slash_at_the_end_of_its_address_the_page_finds_its_files(chromium, server):
    with new_page(chromium) as lab:
        lab.page.goto(f"{server.url}/docs/")
        enter(lab, KEY)
        lab.page.locator(".opblock").first.wait_for()
        assert lab.errors == []


def test_a_wrong_key_shows_why_and_nothing_else(docs):
    lab, urls = docs
    enter(lab, "sk-llmapi-wrong-0123456789")
    lab.page.get_by_role("alert").get_by_text("The API key is wrong.").wait_for()
    assert "the-model" not in lab.page.content()
    assert lab.page.locator(".opblock").count() == 0
    enter(lab, "schlüssel-€")
    lab.page.get_by_role("alert").get_by_text("can't be asked with this key").wait_for()
    assert len([url for url in urls if url.endswith("/openapi.json")]) == 1, "what no header can carry is not sent"
    enter(lab, KEY)  # and after that the right one opens
    lab.page.locator(".opblock").first.wait_for()


def test_without_the_key_given_there_a_request_is_sent_without_it(docs):
    lab, _ = docs
    enter(lab, KEY)
    models = operation(lab, "list_models")
    execute(models, "200", "the-model")
    models.locator(".authorization__btn").click()
    dialog = lab.page.locator(".dialog-ux")
    dialog.get_by_role("button", name="Remove authorization").click()
    dialog.get_by_role("button", name="Close", exact=True).click()
    execute(models, "401", "invalid_api_key")
