"""The chat page in a real Chromium: asking, streaming, stopping, branches, what is kept, and what goes wrong."""

from __future__ import annotations

import contextlib
import json

import pytest
from playwright.sync_api import expect

from tests.api.conftest import serving

from .chat_engine import THOUGHT, ChatEngine
from .chat_page import NUM_STORED, ChatPage
from .chromium import PHONE, new_profile
from .relay import Relay

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    engines = ChatEngine(name="scripted"), ChatEngine(name="second")
    with serving(tmp_path_factory.mktemp("home"), *engines) as made:
        yield made


@pytest.fixture(scope="module")
def tab(chromium, server):
    with new_profile(chromium) as profile:
        yield ChatPage(profile, server.url)


@pytest.fixture
def chat(tab, server):
    """Signed in, with an empty conversation; the page has said nothing wrong at the end, and asked nobody else."""
    tab.begin_anew()
    tab.sign_in()
    yield tab
    assert tab.errors == []
    assert [url for url in tab.urls if not url.startswith((server.url, "data:", "blob:"))] == []


def figures(chat, number=0):
    return chat.locator(".assistant .figures").nth(number).inner_text()


def test_an_answer_streams_and_says_how_many_tokens_and_how_fast(chat):
    chat.ask("count 60")
    chat.button("Stop answering").wait_for()
    chat.wait_for_answers()
    assert chat.answers.inner_text().split() == [f"word{number}" for number in range(60)]
    assert "11 + 60 tokens" in figures(chat)
    assert "tokens/s" in figures(chat)
    assert chat.question.input_value() == ""
    assert chat.locator("#say").inner_text() == "Answer complete."


def test_what_is_selected_stays_selected_while_the_answer_grows(chat):
    chat.ask("hold 300")
    chat.wait_for_word("word98")
    chat.page.evaluate(
        "() => { const text = document.querySelector('.assistant .lk-body p').firstChild;"
        " getSelection().setBaseAndExtent(text, 0, text, 11); }"
    )
    ChatEngine.more.release()
    chat.wait_for_word("word297")
    assert chat.page.evaluate("() => String(getSelection())") == "word0 word1"
    ChatEngine.more.release()
    chat.wait_for_answers()
    assert chat.page.evaluate("() => String(getSelection())") == "word0 word1"
    assert chat.answers.inner_text().split()[-1] == "word299"


def test_stop_works_before_the_first_token_and_amid_by_button_and_by_key(chat):
    for number, question in enumerate(("wait", "wait some"), 1):
        chat.ask(question)
        if question == "wait":
            chat.locator(".waiting").wait_for()
        else:
            chat.answers.nth(number - 1).get_by_text("some").wait_for()
        chat.button("Stop answering").click()
        chat.wait_for_answers(number)
        assert "stopped" in figures(chat, number - 1)
    chat.ask("wait")
    chat.button("Stop answering").wait_for()
    chat.question.press("Escape")
    chat.wait_for_answers(3)
    assert chat.answers.nth(1).inner_text() == "some"


def test_retry_and_edit_make_branches_to_go_back_to(chat):
    chat.ask_and_wait("first")
    chat.button("Answer again").click()
    chat.locator(".assistant .branches", has_text="2 / 2").wait_for()
    chat.wait_for_answers()
    chat.locator(".user").hover()
    chat.button("Edit question").click()
    editor = chat.page.get_by_role("textbox", name="Edited question")
    assert editor.input_value() == "first"
    editor.fill("second")
    editor.press("Enter")
    chat.answers.get_by_text("You said: second").wait_for()
    chat.wait_for_answers()
    assert chat.locator(".user .branches").inner_text() == "2 / 2"
    chat.button("Previous version").click()
    chat.answers.get_by_text("You said: first").wait_for()
    assert chat.locator(".assistant .branches").inner_text() == "2 / 2"


def test_the_model_is_told_the_branch_that_is_shown_with_system_prompt_and_sampling(chat):
    chat.button("Settings").click()
    chat.page.get_by_label("System prompt").fill("Be brief.")
    for label, value in (("Temperature", "0.5"), ("Top p", "0.9"), ("Max tokens", "7"), ("Seed", "3")):
        chat.page.get_by_label(label).fill(value)
    chat.button("Close").click()
    chat.locator("#model").select_option("second")
    chat.ask_and_wait("one two three four five six seven eight nine ten")
    with chat.page.expect_request("**/v1/chat/completions") as asked:
        chat.ask("and then")
    body = asked.value.post_data_json
    chat.wait_for_answers(2)
    assert [message["role"] for message in body.pop("messages")] == ["system", "user", "assistant", "user"]
    assert body == {
        "model": "second", "temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "seed": 3,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


def test_a_setting_out_of_range_is_named_and_not_used(chat):
    chat.button("Settings").click()
    chat.page.get_by_label("Temperature").fill("3")
    chat.locator("#temperature-problem", has_text="0 to 2").wait_for()
    chat.page.get_by_label("Max tokens").fill("1.5")
    chat.locator("#max_tokens-problem", has_text="a whole number, 1 or more").wait_for()
    chat.button("Close").click()
    with chat.page.expect_request("**/v1/chat/completions") as asked:
        chat.ask("hello")
    assert not {"temperature", "max_tokens"} & asked.value.post_data_json.keys()
    chat.wait_for_answers()


def test_reasoning_is_folded_and_is_not_sent_back(chat):
    assert chat.ask_and_wait("think").inner_text() == "Hello!"
    reasoning = chat.locator("details.reasoning")
    expect(reasoning.get_by_text(THOUGHT)).not_to_be_visible()
    reasoning.locator("summary").click()
    reasoning.get_by_text(THOUGHT).wait_for()
    with chat.page.expect_request("**/v1/chat/completions") as asked:
        chat.ask("again")
    assert THOUGHT not in asked.value.post_data
    chat.wait_for_answers(2)


def chunk(delta, reason=None):
    return "data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}) + "\n\n"


def test_calls_of_functions_are_shown_with_their_arguments(chat):
    parts = ({"name": "weather", "arguments": '{"city": '}, {"arguments": '"Paris"}'})
    stream = "".join(chunk({"tool_calls": [{"index": 0, "function": part}]}) for part in parts)
    frames = stream + chunk({}, "tool_calls") + "data: [DONE]\n\n"
    chat.answer_with("v1/chat/completions", 200, frames, **{"Content-Type": "text/event-stream"})
    chat.ask_and_wait("the weather")
    chat.locator(".call summary", has_text="The model calls weather").click()
    assert chat.locator(".call pre").inner_text() == '{"city": "Paris"}'


def test_answers_and_code_are_copied(chat):
    chat.ask_and_wait("rich")
    read = "() => navigator.clipboard.readText()"
    chat.button("Copy").click()
    chat.locator("#say", has_text="Copied.").wait_for()
    assert chat.page.evaluate(read) == "def area(width, height):\n    return width * height  # of a rectangle\n"
    chat.button("Copy answer").click()
    chat.wait_until("async () => (await navigator.clipboard.readText()).startsWith('## Integrals')")


def test_a_reload_keeps_the_conversation_and_who_one_is(chat):
    chat.ask_and_wait("first")
    chat.ask_and_wait("think")
    chat.page.reload()
    chat.answers.get_by_text("You said: first").wait_for()
    assert chat.answers.count() == 2
    assert chat.answers.nth(1).inner_text() == "Hello!"
    chat.ask_and_wait("third")


def test_a_reload_amid_an_answer_keeps_what_had_come(chat):
    chat.ask("slow 10000")
    chat.wait_for_word("word9")
    kept = (
        "() => new Promise((resolve) => { const open = indexedDB.open('llmapi_kit:/:', 1); open.onsuccess = () => {"
        " const all = open.result.transaction('conversations').objectStore('conversations').getAll();"
        " all.onsuccess = () => resolve(JSON.stringify(all.result).includes('word9 ')); }; })"
    )
    chat.wait_until(kept)
    chat.page.reload()
    chat.locator(".problem", has_text="The connection was cut before the answer was complete.").wait_for()
    assert "word9" in chat.answers.inner_text()
    chat.question.wait_for()


def test_conversations_are_listed_renamed_deleted_and_brought_back(chat):
    for text in ("alpha", "beta"):
        chat.ask_and_wait(text)
        chat.button("New chat").first.click()
        chat.locator("#empty").wait_for()
    listed = chat.locator(".conversation")
    assert listed.all_inner_texts() == ["beta", "alpha"]
    listed.nth(1).click()
    chat.answers.get_by_text("You said: alpha").wait_for()
    chat.locator("#conversation-list li").nth(1).hover()
    chat.button("Rename “alpha”").click()
    name = chat.page.get_by_role("textbox", name="New name")
    name.fill("<b>gamma</b>")
    name.press("Enter")
    listed.get_by_text("<b>gamma</b>").wait_for()
    chat.button("Delete “<b>gamma</b>”").focus()
    chat.page.keyboard.press("Enter")
    chat.locator("#empty").wait_for()
    assert listed.all_inner_texts() == ["beta"]
    chat.button("Undo").click()
    listed.get_by_text("<b>gamma</b>").wait_for()
    chat.page.wait_for_function(NUM_STORED, arg=2)  # it is in the list before it is on disk
    chat.page.reload()
    listed.get_by_text("<b>gamma</b>").click()
    chat.answers.get_by_text("You said: alpha").wait_for()


def test_another_conversation_may_be_read_while_one_is_answered(chat):
    chat.ask_and_wait("alpha")
    chat.button("New chat").first.click()
    chat.ask("wait some")
    chat.answers.get_by_text("some").wait_for()
    chat.locator(".conversation", has_text="alpha").click()
    chat.answers.get_by_text("You said: alpha").wait_for()
    chat.button("Send").wait_for()
    chat.ask_and_wait("more")
    chat.locator(".conversation", has_text="wait some").click()
    chat.button("Stop answering").click()
    chat.wait_for_answers()
    assert chat.answers.inner_text() == "some"


def test_a_conversation_deleted_amid_its_answer_does_not_come_back(chat, server):
    chat.ask("wait some")
    chat.answers.get_by_text("some").wait_for()
    chat.button("Delete “wait some”").focus()
    chat.page.keyboard.press("Enter")
    chat.locator("#empty").wait_for()
    chat.ask_and_wait("next")  # by when the other one has ended too
    assert chat.locator(".conversation").all_inner_texts() == ["next"]


def test_a_conversation_is_exported_as_markdown_and_json(chat):
    chat.ask_and_wait("think")
    chat.button("Settings").click()
    texts = {}
    for name in ("Markdown", "JSON"):
        with chat.page.expect_download() as download:
            chat.button(name).click()
        texts[download.value.suggested_filename] = download.value.path().read_text()
    assert texts["chat.md"] == f"# think\n\n**You:**\n\nthink\n\n**scripted:**\n\n> {THOUGHT}\n\nHello!\n"
    assert json.loads(texts["chat.json"]) == {
        "model": "scripted",
        "messages": [{"role": "user", "content": "think"}, {"role": "assistant", "content": "Hello!"}],
    }


def test_code_to_use_it_has_this_pages_address_and_the_model_and_no_key(chat, server):
    chat.locator("#model").select_option("second")
    chat.button("Use it from code").click()
    texts = chat.locator(".snippet pre").all_inner_texts()
    assert len(texts) == 3
    for text in texts:
        assert f"{server.url}/v1" in text
        assert "second" in text
        assert "OPENAI_API_KEY" in text
        assert "sk-" not in text
    compile(texts[1], "snippet", "exec")
    chat.button("Copy Python").click()
    chat.locator("#code [role=status]", has_text="Copied.").wait_for()
    assert chat.page.evaluate("() => navigator.clipboard.readText()") == texts[1]


def error(code, message):
    return {"error": {"message": message, "type": "t", "param": None, "code": code}}


ERRORS = [
    (401, error("invalid_api_key", "No."), {}, "The key is not accepted"),
    (429, error("rate_limit_exceeded", "Too many."), {"Retry-After": "12"}, "You can try again in 1"),
    (429, error("insufficient_quota", "Used up."), {}, "The key has used all the tokens"),
    (503, error("model_loading", "It loads."), {}, "The model can't answer now"),
    (404, error("model_not_found", "Gone."), {}, "This model is not there any more."),
    (400, error("context_length_exceeded", "Long."), {}, "longer than the model's context"),
    (400, error("unsupported", "No seed <b>here</b>."), {}, "No seed <b>here</b>."),
    (413, error("request_too_large", "Big."), {}, "more than the server takes"),
    (500, error(None, "Oh."), {}, "The server failed while it answered."),
    (404, "<html>ERR_NGROK_3200</html>", {}, "Something else than this server answered (HTTP 404)"),
]


def test_an_error_is_shown_in_the_chat_with_what_to_do_and_answering_again_works(chat):
    for status, body, headers, shown in ERRORS:
        chat.button("New chat").first.click()
        chat.answer_with("v1/chat/completions", status, body, **headers)
        chat.ask("hello")
        problem = chat.locator(".message .problem")
        problem.get_by_text(shown).wait_for()
        if isinstance(body, dict):
            problem.get_by_text(body["error"]["message"]).wait_for()
        assert problem.get_by_role("button", name="Enter another key").is_visible() == (status == 401)
        chat.answer_themselves("v1/chat/completions")
        problem.get_by_role("button", name="Answer again").click()
        chat.answers.get_by_text("You said: hello").wait_for()
        chat.wait_for_answers()
        assert chat.locator(".assistant .branches").is_hidden(), "an answer that brought nothing is no branch"
    chat.errors.clear()  # the console names the statuses


def test_an_error_amid_a_stream_is_shown_as_the_server_says_it(chat):
    chat.ask_and_wait("fail")
    chat.locator(".problem", has_text="The model is out of ideas.").wait_for()


def test_a_connection_that_is_cut_keeps_the_partial_answer(chromium, server):
    relay = Relay(server.url)
    with contextlib.closing(relay), new_profile(chromium) as profile:
        chat = ChatPage(profile, relay.url)
        chat.sign_in()
        chat.ask("wait some")
        chat.answers.get_by_text("some").wait_for()
        relay.cut()
        chat.locator(".problem", has_text="The connection was cut").wait_for()
        assert chat.answers.inner_text() == "some"
        chat.ask("hello")
        chat.locator(".problem", has_text="The server can't be reached").wait_for()
        relay.mend()
        chat.locator(".assistant .problem").nth(1).get_by_role("button", name="Answer again").click()
        chat.answers.get_by_text("You said: hello").wait_for()
        assert chat.answers.first.inner_text() == "some"


def test_a_connection_that_went_silent_is_given_up(chat):
    chat.install_clock()
    chat.ask("wait some")
    chat.answers.get_by_text("some").wait_for()
    chat.page.clock.fast_forward(61_000)
    chat.locator(".problem", has_text="The connection was cut").wait_for()


def test_on_a_phone_everything_fits_and_the_list_is_a_drawer(chromium, server):
    with new_profile(chromium, size=PHONE, has_touch=True, is_mobile=True) as profile:
        chat = ChatPage(profile, server.url)
        chat.sign_in()
        chat.ask_and_wait("rich")
        expect(chat.locator("#sidebar")).not_to_be_visible()
        width = chat.page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1] == PHONE[0]
        chat.button("Show conversations").click()
        chat.locator(".conversation", has_text="rich").wait_for()
        assert chat.page.evaluate("() => document.getElementById('main').inert")
        chat.page.keyboard.press("Escape")
        chat.locator("#sidebar").wait_for(state="hidden")
        assert chat.page.evaluate("() => document.activeElement.id") == "open-sidebar"
        chat.button("Show conversations").click()
        chat.button("New chat").first.click()
        chat.locator("#empty").wait_for()
        assert chat.violations() == []
        assert chat.errors == []
