"""Who gets into the chat page and how: keys, invitations, what is remembered, and what the owner sees."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from llmapi_kit.config import load_settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.engines.mock_picture import draw
from llmapi_kit.server.server import Server
from tests.api.conftest import KEY, serving

from .chat_page import ChatPage
from .chromium import new_profile

pytestmark = pytest.mark.slow

CODE = "inv-0123456789abcdefABCDEF"
OTHER_KEY = "sk-llmapi-teammate-0123456789abcdef"
REMEMBERED = "() => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, history.state])"
INFO = {
    "object": "key",
    "name": "teammate-1",
    "is_owner": False,
    "models": ["mock"],
    "limits": {"rpm": 60, "tpm": None, "concurrency": 2},
    "budget": {"tokens": 50_000, "used": 1_234},
    "expires_at": 1_900_000_000,
}
STATUS = {
    "models": [{"id": "mock", "num_running": 1, "num_slots": 16, "num_queued": 2, "tokens_per_s": 99.6}],
    "requests": [
        {"id": "req_1", "key": "<b>teammate-1</b>", "route": "/v1/chat/completions", "model": "mock",
         "state": "decoding", "prompt_tokens": 1234, "completion_tokens": 56, "seconds": 7.89},
    ],
    "keys": [{"name": "teammate-2", "is_paused": True, "running": 0, "requests_today": 42, "tokens_today": 9001}],
    "tunnel": {"kind": "ssh", "state": "up", "public_url": "https://abc.example", "reason": None},
    "started_at": 1_700_000_000,
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("home"), MockEngine()) as made:
        yield made


@pytest.fixture(scope="module")
def tab(chromium, server):
    with new_profile(chromium) as profile:
        yield ChatPage(profile, server.url)


@pytest.fixture
def chat(tab):
    """The page of a visitor who never was here. No address that it asks for has a secret in it."""
    tab.begin_anew()
    yield tab
    assert [url for url in tab.urls if any(secret in url for secret in (KEY, OTHER_KEY, CODE))] == []


def test_a_wrong_key_is_told_why_and_the_right_one_opens(chat):
    chat.goto()
    for key, shown in (("sk-llmapi-wrong-0123456789", "The key is not accepted"), ("schlüssel-€", "is not accepted")):
        chat.locator("#door-key").fill(key)
        chat.locator("#door-open").click()
        chat.locator("#door-problem", has_text=shown).wait_for()
    chat.sign_in()
    assert chat.locator("#model").input_value() == "mock"
    assert chat.page.url == f"{chat.url}/"
    assert KEY not in chat.page.content()


@pytest.mark.parametrize("is_remembered", [False, True])
def test_the_key_lasts_as_long_as_the_tab_unless_it_is_to_be_remembered(chat, is_remembered):
    chat.sign_in(is_remembered=is_remembered)
    chat.page.reload()
    chat.question.wait_for()
    assert (KEY in chat.page.evaluate("() => JSON.stringify({...localStorage})")) == is_remembered
    other = ChatPage(chat.context, chat.url)
    other.goto()
    other.locator("#question" if is_remembered else "#door-key").wait_for()


def test_signing_out_forgets_the_key_and_the_conversations_where_one_says_so(chat):
    chat.sign_in(is_remembered=True)
    chat.ask_and_wait("my secret plan")
    for is_clearing in (False, True):
        chat.locator("#sign-out").click()
        chat.locator("#leave-clear").set_checked(is_clearing)
        chat.locator("#leave-yes").click()
        chat.locator("#door-key").wait_for()
        assert KEY not in chat.page.evaluate(REMEMBERED)
        assert chat.locator("#door-key").input_value() == ""
        chat.page.reload()
        chat.locator("#door-key").wait_for()
        chat.sign_in()
        assert chat.locator(".conversation").count() == (0 if is_clearing else 1)


def test_an_invitation_is_exchanged_once_for_a_key_that_is_remembered(chat):
    chat.answer_with("invitations", 200, {"api_key": KEY, "name": "teammate-1", "models": ["mock"], "expires_at": None})
    chat.answer_with("v1/key", 200, INFO)
    chat.goto(f"#invite={CODE}")
    chat.page.get_by_text("You are invited.").wait_for()
    assert chat.page.url == f"{chat.url}/"
    assert CODE not in chat.page.evaluate(REMEMBERED)
    expect(chat.locator("#door-key")).not_to_be_visible()
    assert [url for url in chat.urls if url.endswith("/invitations")] == [], "nothing is used up by looking"
    with chat.page.expect_request("**/invitations") as exchanged:
        chat.button("Open the chat").click()
    assert (exchanged.value.method, exchanged.value.post_data_json) == ("POST", {"code": CODE})
    chat.question.wait_for()
    who = chat.locator("#who").inner_text().split("\n")
    assert [line for line in who if line] == [
        "Signed in as teammate-1", "60 requests a minute", "2 at a time", "1,234 of 50,000 tokens used",
        "until Mar 17, 2030, 5:46 PM",
    ]  # fmt: skip
    chat.answer_with("v1/key", 200, {**INFO, "budget": {"tokens": 50_000, "used": 1_300}})
    chat.ask_and_wait("hello")
    chat.locator("#who", has_text="1,300 of 50,000 tokens used").wait_for()
    chat.page.go_back()
    assert CODE not in chat.page.url
    other = ChatPage(chat.context, chat.url)
    other.goto()
    other.question.wait_for()
    assert len([url for url in chat.urls if url.endswith("/invitations")]) == 1


def test_an_invitation_followed_in_a_tab_that_has_the_page_open_is_taken_too(chat):
    chat.sign_in()
    chat.page.evaluate(f"() => {{ location.hash = 'invite={CODE}'; }}")
    chat.page.get_by_text("You are invited.").wait_for()
    assert chat.page.url == f"{chat.url}/"
    chat.button("Use a key instead").click()
    chat.locator("#door-key").wait_for()


@pytest.mark.parametrize(("status", "code"), [(404, "invitation_not_found"), (410, "gone"), (400, "bad"), (401, "bad")])
def test_an_invitation_that_was_used_says_so_and_takes_a_key_instead(chat, status, code):
    body = {"error": {"message": "It was used.", "type": "t", "param": None, "code": code}}
    chat.answer_with("invitations", status, body)
    chat.goto(f"#invite={CODE}")
    chat.button("Open the chat").click()
    chat.locator("#door-problem", has_text="This invitation was used already").wait_for()
    chat.button("Use a key instead").click()
    chat.locator("#door-key").fill(KEY)
    chat.locator("#door-open").click()
    chat.question.wait_for()


def test_a_revoked_key_leads_to_entering_another_one_and_keeps_the_conversation(chat):
    chat.sign_in()
    chat.ask_and_wait("hello")
    error = {"error": {"message": "It was revoked.", "type": "t", "param": None, "code": "invalid_api_key"}}
    chat.answer_with("v1/chat/completions", 401, error)
    chat.ask("more")
    chat.button("Enter another key").click()
    chat.answer_themselves("v1/chat/completions")
    chat.locator("#door-key").fill(KEY)
    chat.locator("#door-open").click()
    chat.question.wait_for()
    assert chat.answers.first.inner_text() == "hello"


def test_a_server_that_is_away_can_be_tried_again_without_the_key(chat):
    chat.sign_in(is_remembered=True)
    chat.answer_with("v1/models", 503, {"error": {"message": "Starting.", "code": None}})
    chat.page.reload()
    chat.locator("#door-problem", has_text="Starting.").wait_for()
    chat.answer_themselves("v1/models")
    chat.button("Open the chat").click()
    chat.question.wait_for()
    assert KEY in chat.page.evaluate("() => JSON.stringify({...localStorage})"), "it is still remembered"


def test_a_model_that_loads_when_asked_says_so_until_it_is_loaded(chat):
    chat.sign_in()
    unloaded = {"id": "mock", "llmapi_kit": {"capabilities": [], "state": "unloaded"}}
    chat.answer_with("v1/models", 200, {"data": [unloaded]})
    chat.page.reload()
    chat.locator("#model", has_text="mock (loads when asked)").wait_for()
    chat.answer_themselves("v1/models")
    chat.ask_and_wait("hello")
    chat.locator("#model", has_text=re.compile("^mock$")).wait_for()


def test_a_key_without_a_model_that_chats_is_told_so(chat):
    chat.answer_with("v1/key", 200, INFO)
    chat.answer_with("v1/models", 200, {"data": [{"id": "e", "llmapi_kit": {"capabilities": ["embeddings"]}}]})
    chat.goto()
    chat.locator("#door-problem", has_text="may use no model that chats").wait_for()


def test_a_server_without_a_key_asks_for_none(chromium, tmp_path):
    server = Server((MockEngine(),), host="127.0.0.1", port=0, api_key=None, settings=load_settings(home=tmp_path))
    server.start()
    try:
        with new_profile(chromium) as profile:
            chat = ChatPage(profile, server.url)
            chat.goto()
            chat.question.wait_for()
            assert chat.ask_and_wait("hello").inner_text() == "hello"
            assert chat.locator("#sign-out").is_hidden()
    finally:
        server.stop(drain_s=0)


def test_the_owner_sees_who_is_on_and_looks_only_while_the_page_is_in_sight(chat):
    chat.answer_with("v1/key", 200, {**INFO, "is_owner": True})
    chat.answer_with("v1/status", 200, STATUS)
    chat.install_clock()
    chat.sign_in()
    chat.button("Server status").click()
    cells = chat.locator("#status-body td")
    cells.first.wait_for()
    assert cells.all_inner_texts() == [
        "<b>teammate-1</b>", "mock", "/v1/chat/completions", "decoding", "1,234 + 56", "7.9", "mock", "1 / 16", "2",
        "100", "teammate-2", "paused", "0", "42", "9,001", "ssh", "up", "https://abc.example",
    ]  # fmt: skip

    def looks():
        return len([url for url in chat.urls if url.endswith("/v1/status")])

    with chat.page.expect_request("**/v1/status"):
        chat.page.clock.fast_forward(4000)
    chat.page.evaluate(
        "() => { Object.defineProperty(document, 'hidden', { value: true, configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')); }"
    )
    before = looks()
    chat.page.clock.fast_forward(30_000)
    chat.page.evaluate("() => fetch('v1/models')")  # by when a look would have been sent
    assert looks() == before
    with chat.page.expect_request("**/v1/status"):
        chat.page.evaluate("() => { delete document.hidden; document.dispatchEvent(new Event('visibilitychange')); }")
    chat.answer_with("v1/status", 503, {"error": {"message": "Stopping.", "code": None}})
    with chat.page.expect_request("**/v1/status"):
        chat.page.clock.fast_forward(4000)
    chat.locator("#status-line", has_text="Can't be read now").wait_for()


def test_others_see_no_status(chat):
    chat.answer_with("v1/key", 200, INFO)
    chat.sign_in()
    assert chat.locator("#open-status").is_hidden()


def test_what_a_model_says_of_itself_is_heeded_its_defaults_and_whether_it_sees(chat):
    models = [
        {"id": "blind", "llmapi_kit": {"capabilities": ["chat"], "defaults": {"temperature": 0.6}}},
        {"id": "seeing", "llmapi_kit": {"capabilities": ["chat", "vision"]}},
    ]
    chat.answer_with("v1/key", 200, INFO)
    chat.answer_with("v1/models", 200, {"data": models})
    chat.answer_with("v1/chat/completions", 200, "data: [DONE]\n\n", **{"Content-Type": "text/event-stream"})
    chat.goto()
    chat.question.wait_for()
    assert chat.locator("#add-picture").is_hidden()
    chat.button("Settings").click()
    assert chat.page.get_by_label("Temperature").get_attribute("placeholder") == "model's own: 0.6"
    assert chat.page.get_by_label("Seed").get_attribute("placeholder") == "model's own"
    chat.button("Close").click()
    chat.locator("#model").select_option("seeing")
    picture = draw("a dot", 0, 1, 1)
    files = [{"name": "dot.png", "mimeType": "image/png", "buffer": picture}]
    chat.locator("#picture-file").set_input_files([*files, {"name": "a.png", "mimeType": "image/png", "buffer": b"x"}])
    chat.locator("#say", has_text="a.png is not an image").wait_for()
    chat.page.evaluate(
        "() => { const canvas = document.createElement('canvas'); canvas.toBlob((blob) => {"
        " const data = new DataTransfer(); data.items.add(new File([blob], 'b.png', { type: 'image/png' }));"
        " for (const [name, where] of [['drop', '#main'], ['paste', '#question']]) {"
        "  const event = name === 'drop' ? new DragEvent(name, { dataTransfer: data, bubbles: true, cancelable: true })"
        "   : new ClipboardEvent(name, { clipboardData: data, bubbles: true, cancelable: true });"
        "  document.querySelector(where).dispatchEvent(event); } }); }"
    )
    chat.button("Remove image 3").click()
    chat.button("Remove image 2").wait_for()
    assert chat.locator(".thumbnail").count() == 2
    with chat.page.expect_request("**/v1/chat/completions") as asked:
        chat.ask("what is this?")
    parts = asked.value.post_data_json["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "image_url", "text"]
    assert parts[0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    chat.wait_for_answers()
    assert chat.locator(".user img").count() == 2
    assert chat.locator(".thumbnail").count() == 0
    assert chat.errors == [], "the policy lets them be shown"
