"""The chat in a real JupyterLab in a real Chromium: one kernel; each test has a chat in a cell of its own."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import nbformat
import pytest
from PIL import Image
from playwright.sync_api import expect

from .axe import serious_faults
from .chat_box import ChatBox
from .lab import DARK, LIGHT

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]
HERE = Path(__file__).parent
SETUP = """
import llmapi_kit as kit
from chat_engine import ChatEngine, SeeingEngine
from llmapi_kit.config import Settings
from llmapi_kit.server.server import Server
server = kit.serve_engine(ChatEngine(name="scripted"), port=0)
place = {"host": "127.0.0.1", "port": 0, "api_key": "k" * 20, "settings": Settings()}
sight = Server([SeeingEngine(), ChatEngine(name="blind")], **place)  # has no card
sight.start()
def weather(city: str) -> str:
    "The weather in a city"
    return f"18 degrees in {city}"
"""
CHATS = {
    "talk": "talk = kit.chat(server)",
    "hostile": "hostile = kit.chat(ChatEngine())",
    "tools": "tools = kit.chat(server); tools.tools(weather)",
    "both": "both = kit.chat([server, ChatEngine(name='second')])",
    "plain": "plain = kit.chat(server, kind='plain')",
    "code": "code = kit.chat(server)\ncode",
    "seeing": "seeing = kit.chat(sight.url, api_key=sight.api_key)",
    "blocked": "blocked = kit.chat(server)",
}


@pytest.fixture(scope="module")
def lab(jupyter, open_lab):
    """A page on a notebook with all chats, and the notebook's path."""
    path = jupyter.add_notebook("chat", HERE / "chat_engine.py", setup=SETUP, **CHATS)
    page = open_lab(path)
    page.save_widgets(True)
    page.run_all()
    page.path = path
    return page


@pytest.fixture
def chat(lab, request):
    """The chat that a test is marked with."""
    name = request.node.get_closest_marker("chat").args[0]
    box = ChatBox(lab, 1 + list(CHATS).index(name))
    box.cell.scroll_into_view_if_needed()
    box.root.wait_for()
    return box


def use(name):
    return pytest.mark.chat(name)


@use("talk")
def test_typed_question_streams_its_answer_and_says_how_fast(chat):
    chat.ask("count 60")
    chat.button("Stop answering (Escape)").wait_for()
    chat.wait_for_answers(1)
    assert chat.answers().first.inner_text().split() == [f"word{number}" for number in range(60)]
    figures = chat.root.locator(".lk-assistant .lk-figures").inner_text()
    assert "11 + 60 tokens" in figures
    assert "tokens/s" in figures
    assert chat.input.input_value() == ""


@use("talk")
def test_stop_works_before_the_first_token_and_amid(chat):
    for number, question in ((2, "wait"), (3, "wait some")):
        chat.ask(question)
        if question != "wait":
            chat.answers().nth(number - 1).get_by_text("some").wait_for()
        chat.button("Stop answering (Escape)").click()
        chat.wait_for_answers(number)
        assert "stopped" in chat.root.locator(".lk-assistant .lk-figures").nth(number - 1).inner_text()
    chat.ask("wait")
    chat.button("Stop answering (Escape)").wait_for()
    chat.input.press("Escape")
    chat.wait_for_answers(4)


@use("talk")
def test_retry_and_edit_make_branches_to_go_back_to(chat):
    chat.button("New chat").click()
    chat.root.locator(".lk-empty").wait_for()
    chat.ask("first")
    chat.wait_for_answers(1)
    chat.button("Retry answer").click()
    chat.root.locator(".lk-assistant .lk-branch", has_text="2 / 2").wait_for()
    chat.wait_for_answers(1)
    chat.button("Edit question").click()
    chat.root.get_by_role("textbox", name="Edited question").fill("second")
    chat.root.get_by_role("textbox", name="Edited question").press("Enter")
    chat.answers().get_by_text("You said: second").wait_for()
    chat.button("Previous version").first.click()
    chat.answers().get_by_text("You said: first").wait_for()
    assert chat.root.locator(".lk-assistant .lk-branch").inner_text() == "2 / 2"


@use("talk")
def test_markdown_code_tables_and_formulas_are_drawn_and_code_is_copied(chat):
    chat.ask("rich")
    chat.wait_for_answers(2)
    answer = chat.answers().nth(1)
    assert answer.locator("h2").inner_text() == "Integrals"
    assert answer.locator("td").all_inner_texts() == ["2", "4"]
    assert answer.locator(".katex-display").count() == 1
    assert "costs $5 or $6." in answer.inner_text()
    assert answer.locator(".hljs-keyword").count() > 0
    answer.get_by_role("button", name="Copy").click()
    chat.status.get_by_text("Copied.").wait_for()
    copied = chat.lab.page.evaluate("() => navigator.clipboard.readText()")
    assert copied == "def area(width, height):\n    return width * height  # of a rectangle\n"


@use("talk")
def test_reasoning_is_folded_away(chat):
    chat.ask("think")
    chat.wait_for_answers(3)
    reasoning = chat.root.locator("details.lk-reasoning").last
    expect(reasoning.locator(".lk-body")).not_to_be_visible()
    reasoning.locator("summary").click()
    reasoning.get_by_text("I greet them back").wait_for()
    assert chat.answers().nth(2).inner_text() == "Hello!"


@use("talk")
def test_selection_stays_while_the_answer_grows(chat):
    chat.ask("hold 300")
    answer = chat.answers().nth(3)
    answer.get_by_text("word99").wait_for()
    select = """element => {
        const range = document.createRange();
        const text = document.createTreeWalker(element, NodeFilter.SHOW_TEXT).nextNode();
        range.setStart(text, 0);
        range.setEnd(text, 11);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
    }"""
    answer.evaluate(select)
    chat.lab.execute("ChatEngine.more.release()")
    chat.root.locator(".lk-assistant.lk-streaming").get_by_text("word298").wait_for()
    assert chat.lab.page.evaluate("() => getSelection().toString()") == "word0 word1"
    chat.lab.execute("ChatEngine.more.release()")
    chat.wait_for_answers(4)
    assert chat.lab.page.evaluate("() => getSelection().toString()") == "word0 word1"
    assert answer.inner_text().split()[-1] == "word299"


@use("talk")
def test_failure_stands_in_the_chat(chat):
    chat.ask("fail")
    chat.root.get_by_role("alert").get_by_text("out of ideas").wait_for()
    chat.button("Retry answer").last.wait_for()


@use("talk")
def test_settings_reach_the_model_and_wrong_ones_are_told(chat):
    chat.root.get_by_text("Settings and export").click()
    chat.root.get_by_label("System prompt").fill("Be brief.")
    chat.root.get_by_label("Temperature").fill("0.5")
    chat.root.get_by_label("Max tokens").fill("9")
    chat.root.get_by_label("Seed").fill("3")
    chat.root.get_by_label("Top p").fill("7")
    chat.root.get_by_label("Top p").press("Tab")
    chat.status.get_by_text("top_p is 7").wait_for()
    chat.lab.execute("assert talk._sessions[0].options.temperature == 0.5, talk._sessions[0].options")
    chat.root.get_by_label("Export format").select_option("Python")
    chat.button("Copy conversation").click()
    chat.status.get_by_text("Copied.").wait_for()
    code = chat.lab.page.evaluate("() => navigator.clipboard.readText()")
    assert "temperature=0.5" in code
    assert "max_tokens=9" in code
    assert "Be brief." in code
    assert "sk-llmapi" not in code


@use("hostile")
def test_hostile_output_stays_text(chat):
    page = chat.lab.page
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    chat.ask("hostile")
    chat.wait_for_answers(1)
    answer = chat.answers().first
    assert "<script>window.pwned = 1</script>" in answer.inner_text()
    assert answer.locator("script, img, iframe, style, b").count() == 0
    addresses = answer.locator("a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert all(address.startswith("http://127.0.0.1:1/") for address in addresses)
    assert answer.evaluate("e => [...e.querySelectorAll('*')].some(n => n.style.position === 'fixed')") is False
    assert "⟦U+202E⟧right to left⟦U+202C⟧, zero⟦U+200B⟧width" in answer.inner_text()
    assert not [url for url in requests if "leak" in url]
    chat.ask("line")
    chat.wait_for_answers(2)
    assert len(chat.answers().nth(1).inner_text()) == 1_000_000
    assert chat.answers().nth(1).evaluate("e => e.scrollWidth <= e.clientWidth + 1")
    assert page.evaluate("() => window.pwned") is None


@use("tools")
def test_function_runs_after_a_click_and_its_result_is_shown(chat):
    chat.ask("tool please")
    chat.root.get_by_text("weather: waiting").wait_for()
    assert '"city": "Paris"' in chat.root.locator(".lk-call").inner_text()
    chat.button("Run").click()
    chat.answers().get_by_text("You said: 18 degrees in Paris").wait_for()
    chat.root.get_by_text("weather: done").wait_for()


@use("both")
def test_two_models_answer_side_by_side(chat):
    chat.ask("same question")
    chat.root.locator(".lk-assistant:not(.lk-streaming)").nth(1).wait_for()
    assert chat.answers().all_inner_texts() == ["You said: same question"] * 2
    assert chat.root.locator(".lk-who").all_inner_texts() == ["You", "scripted", "You", "second"]


def picture_file(name="dot.png", size=(40, 30)):
    file = io.BytesIO()
    Image.new("RGB", size, "teal").save(file, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": file.getvalue()}


def give(chat, how, file):
    """Paste or drop a file."""
    chat.input.evaluate(
        """(element, [how, { name, mimeType, data }]) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const clipboard = new DataTransfer();
            clipboard.items.add(new File([bytes], name, { type: mimeType }));
            const [kind, key] = how === "paste" ? [ClipboardEvent, "clipboardData"] : [DragEvent, "dataTransfer"];
            element.dispatchEvent(new kind(how, { [key]: clipboard, bubbles: true, cancelable: true }));
        }""",
        [how, {**file, "buffer": None, "data": base64.b64encode(file["buffer"]).decode()}],
    )


@use("seeing")
def test_pictures_are_chosen_pasted_dropped_and_sent_as_they_are(chat):
    file, thumbnails = picture_file(), chat.root.locator(".thumbnail")
    with chat.lab.page.expect_file_chooser() as chooser:
        chat.button("Add pictures").click()
    chooser.value.set_files([file, {**file, "name": "<img src=x onerror=alert(1)>.svg", "buffer": b"<svg/>"}])
    chat.status.get_by_text("<img src=x onerror=alert(1)>.svg is not a picture that can be read here").wait_for()
    give(chat, "paste", file)
    chat.button("Remove picture 2").click()
    thumbnails.nth(1).wait_for(state="detached")
    give(chat, "drop", picture_file(size=(5000, 4000)))
    chat.status.get_by_text("is sent in a smaller size").wait_for()
    thumbnails.nth(1).wait_for()
    assert serious_faults(chat.root) == []
    chat.ask("what is it?")
    answer = chat.answers().get_by_text(f"I see 2: PNG of {len(file['buffer'])} bytes, JPEG of")
    answer.wait_for()
    assert thumbnails.count() == 0
    shown = chat.root.locator(".lk-images img")
    assert [each.get_attribute("alt") for each in shown.all()] == [
        "Picture 1: 40 x 30 pixels",
        "Picture 2: 1,536 x 1,229 pixels",
    ]
    assert shown.first.evaluate("image => image.naturalWidth") == 40
    chat.button("Edit question").click()
    chat.root.get_by_role("textbox", name="Edited question").fill("and now?")
    assert serious_faults(chat.root) == []
    chat.button("Ask").click()
    chat.root.locator(".lk-user .lk-branch", has_text="2 / 2").wait_for()
    chat.wait_for_answers(1)
    answer.wait_for()
    assert shown.count() == 2
    chat.button("Edit question").click()
    chat.button("Remove picture 2").click()
    chat.button("Ask").click()
    chat.answers().get_by_text(f"I see 1: PNG of {len(file['buffer'])} bytes").wait_for()
    assert serious_faults(chat.root) == []


@use("seeing")
def test_model_that_takes_text_only_is_offered_no_pictures(chat):
    chat.root.get_by_label("Model").select_option("blind")
    chat.button("Add pictures").wait_for(state="hidden")
    for how in ("paste", "drop"):
        chat.lab.execute("seeing.set(model='blind')")
        give(chat, how, picture_file())
        chat.status.get_by_text("blind takes text only, and no pictures.").wait_for()
    assert chat.root.locator(".thumbnail").count() == 0
    chat.root.get_by_label("Model").select_option("seeing")
    chat.button("Add pictures").wait_for()


@use("plain")
def test_plain_chat_streams_stops_and_goes_back(chat):
    area = chat.root.get_by_placeholder("Message")
    area.fill("think")
    chat.button("Send").click()
    chat.root.get_by_text("Hello!", exact=True).wait_for()
    area.fill("wait a bit")
    chat.button("Send").click()
    chat.root.get_by_text("a bit", exact=True).wait_for()
    chat.button("Stop").click()
    chat.root.get_by_text("stopped").first.wait_for()
    chat.button("Retry").click()
    chat.lab.page.wait_for_function("() => true")
    chat.button("Stop").click()
    chat.root.locator("button:not([disabled])", has_text="Previous version").wait_for()


@use("code")
def test_chat_made_and_named_in_one_cell_is_shown_once_and_follows_code(chat):
    assert chat.root.count() == 1
    chat.lab.execute("code.send('from code')")
    chat.answers().get_by_text("You said: from code").wait_for()


@use("blocked")
def test_answer_streams_while_a_cell_runs_and_clicks_are_said_to_wait(chat):
    code = "import threading; held = threading.Event(); blocked.send('slow 10000', wait=False); held.wait(60)"
    chat.lab.start(code)
    chat.root.locator(".lk-streaming").get_by_text("word20").wait_for()
    chat.button("Stop answering (Escape)").click()
    chat.status.get_by_text("busy with a cell").wait_for()  # or gone, where work on a subshell has made it idle
    chat.root.locator(".lk-streaming").get_by_text("word60").wait_for()
    took_for_idle = any(chat.lab.ask_over_subshell() == "idle" for _ in range(10))
    assert took_for_idle, "JupyterLab tells a busy kernel from an idle one now"
    chat.status.get_by_text("busy with a cell, or gone").wait_for()
    assert chat.root.locator(".lk-streaming").count() == 1
    assert chat.status.get_by_text("is gone").count() == 0
    chat.lab.interrupt()
    chat.wait_for_answers(1)
    assert "stopped" in chat.root.locator(".lk-figures").last.inner_text()


@use("talk")
@pytest.mark.parametrize("theme", [DARK, LIGHT])
def test_axe_finds_nothing_serious(chat, theme):
    chat.lab.use_theme(theme)
    assert serious_faults(chat.root) == []


@use("talk")
def test_everything_is_reached_with_the_keyboard(chat):
    chat.input.focus()
    page = chat.lab.page
    seen = []
    for _ in range(8):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("() => document.activeElement.textContent || document.activeElement.type"))
    assert {"Send", "Settings and export", "number"} <= set(seen)
    chat.input.focus()
    chat.input.press("Shift+Enter")
    assert chat.input.input_value() == "\n"
    assert page.locator(".jp-Cell.jp-mod-active .llmapi-kit-chat").count() == 1, "the notebook took a key"


@use("talk")
def test_restarted_kernel_is_said_and_saved_notebook_reads_without_one(chat, jupyter):
    lab = chat.lab
    lab.restart_kernel()
    chat.status.get_by_text("The kernel of this chat is gone").wait_for()
    expect(chat.button("Send")).to_be_disabled()
    assert "word299" in chat.root.inner_text()
    lab.save()
    nb = nbformat.read(lab.path, as_version=4)
    html = "".join(output.get("data", {}).get("text/html", "") for output in nb.cells[2].outputs)
    assert "&lt;script&gt;" in html
    assert "<script" not in html
    assert 0 < len(nb.cells[7].outputs[-1]["data"]["text/html"]) < 10_000
    assert "widget-state+json" in lab.path.read_text()
    assert "markdown-it" not in lab.path.read_text(), "the libraries were saved"
    lab.page.goto("about:blank")
    lab.open(jupyter.address(lab.path))
    transcript = lab.page.locator(".llmapi-kit-transcript").first
    transcript.get_by_text("You said: first").wait_for()
    picture = lab.page.locator(".llmapi-kit-transcript img[alt='Picture 1: 40 x 30 pixels']")
    picture.wait_for()
    assert picture.evaluate("image => image.complete && image.naturalWidth") == 40
    assert "Error displaying widget" not in lab.page.locator(".jp-Notebook").inner_text()
