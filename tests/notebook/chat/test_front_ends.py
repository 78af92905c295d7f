"""Both front ends from Python's side: what they send, and what comes of what the page says. The browser tests click."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from importlib import import_module

import ipywidgets
import pytest

import llmapi_kit as kit
from llmapi_kit.errors import MissingDependencyError
from llmapi_kit.notebook.chat import front_end as front_ends
from llmapi_kit.notebook.chat import panel
from llmapi_kit.types import Delta

from .conftest import DEADLINE_S, ScriptedEngine, SeeingEngine, call
from .test_attachments import file_of

PICTURE = file_of()
PAUSE = ScriptedEngine.PAUSE


class Page:
    """What a page would have: the messages and states that a widget sent, in order."""

    def __init__(self, widget):
        self.widget = widget
        self.sent = []
        self._has_sent = threading.Condition()
        self._send = widget.send
        widget.send = self._take
        widget.observe(lambda change: self._take({"kind": "state", **change["new"]}), names="state")

    def _take(self, content, buffers=None):
        with self._has_sent:
            self.sent.append({**content, "buffers": buffers})
            self._has_sent.notify_all()

    def say(self, kind, *, buffers=(), **content):
        """As a page does; returns the answer."""
        request = str(len(self.sent))
        self.widget._handle_custom_msg({"kind": kind, "request": request, **content}, list(buffers))
        return self.wait_for(lambda message: message.get("request") == request)

    def wait_for(self, is_it):
        with self._has_sent:
            assert self._has_sent.wait_for(lambda: any(map(is_it, self.sent)), DEADLINE_S), self.sent[-3:]
            return next(message for message in reversed(self.sent) if is_it(message))

    def wait_until_idle(self, num_messages):
        return self.wait_for(
            lambda each: (
                each["kind"] == "state"
                and not each["panes"][0]["is_busy"]
                and len(each["panes"][0]["messages"]) >= num_messages
            )
        )

    def shown(self):
        """What the page shows of each message, from states and pieces."""
        texts, version, number = {}, None, 0
        for message in self.sent:
            if message["kind"] == "state":
                version, number = message["version"], 0
                texts = {each["id"]: each["content"] for each in message["panes"][0]["messages"]}
            elif message["kind"] == "delta":
                assert (message["version"], message["number"]) == (version, number)
                number += 1
                texts[message["id"]] += message["content"]
        return list(texts.values())


@pytest.fixture
def in_kernel(monkeypatch):
    """Chats are made as in a kernel, and not displayed."""
    for module in (panel, import_module("llmapi_kit.notebook.chat.chat")):
        monkeypatch.setattr(module, "is_jupyter_kernel", lambda: True)
    monkeypatch.setattr(panel.ChatPanel, "display", lambda self: None)


@pytest.fixture
def rich(in_kernel, make_chat):
    def make(*scripts, **options):
        chat, engine = make_chat(*scripts, kind="rich", **options)
        return chat, engine, Page(chat._front_end)

    return make


def test_page_gets_pieces_in_order_and_the_whole_at_the_end(rich):
    _, engine, page = rich(["a ", "b ", PAUSE, "c"])
    assert "error" not in page.say("send", text="go")
    page.wait_for(lambda message: message["kind"] == "delta")
    assert page.shown() == ["go", "a b "]
    engine.go_on.set()
    state = page.wait_until_idle(2)
    assert [each["content"] for each in state["panes"][0]["messages"]] == ["go", "a b c"]
    assert state["panes"][0]["messages"][1]["num_completion_tokens"] == 3


def test_page_that_comes_late_gets_everything(rich):
    _, engine, page = rich([Delta("", reasoning="hm"), "some", PAUSE])
    page.say("send", text="go")
    assert engine.has_paused.wait(DEADLINE_S)
    page.wait_for(lambda message: message["kind"] == "delta" and "some" in message["content"])
    page.say("hello")
    late = next(message for message in reversed(page.sent) if message["kind"] == "state")
    assert late["panes"][0]["messages"][1]["content"] == "some"
    assert late["panes"][0]["messages"][1]["reasoning"] == "hm"


def test_commands_of_the_page_do_what_code_does(rich):
    chat, engine, page = rich(["one"], ["two"], ["three"], [PAUSE])
    page.say("send", text="first")
    question, answer = page.wait_until_idle(2)["panes"][0]["messages"]
    page.say("retry", id=answer["id"], pane=0)
    page.wait_for(lambda each: each["kind"] == "state" and not each["panes"][0]["is_busy"] and _branches(each) == 2)
    page.say("edit", id=question["id"], text="second", pane=0)
    assert chat._sessions[0].wait(DEADLINE_S)
    assert [each["content"] for each in chat.messages] == ["second", "three"]
    page.say("show", id=answer["id"], pane=0)
    assert [each["content"] for each in chat.messages] == ["first", "one"]
    page.say("set", options={"seed": 5, "system": "S"})
    page.say("send", text="last")
    assert engine.has_paused.wait(DEADLINE_S)
    assert (engine.requests[-1].sampling.seed, engine.requests[-1].messages[0]["content"]) == (5, "S")
    page.say("stop")
    assert chat._sessions[0].wait(DEADLINE_S)
    page.say("clear")
    assert chat.messages == [{"role": "system", "content": "S"}]
    assert '"seed": 5' in page.say("export", format=".json")["text"]


def _branches(state):
    return len(state["panes"][0]["messages"][-1]["branches"])


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        ("send", {"text": " "}, "empty"),
        ("set", {"options": {"temperature": 9}}, "temperature"),
        ("allow", {"allow": True, "pane": 0}, "No call waits"),
        ("show", {"id": "nowhere"}, "no message"),
        ("dance", {}, "no command"),
        ("retry", {}, "no answer to try"),
        ("export", {"format": ".exe"}, "exe"),
    ],
)
def test_what_can_not_be_done_is_answered_with_the_reason(rich, kind, content, said):
    _, _, page = rich()
    assert said in page.say(kind, **content)["error"]


def test_odd_messages_of_a_page_are_ignored(rich):
    chat, _, page = rich()
    for odd in (None, 3, [], {}, {"kind": 5}):
        chat._front_end._handle_custom_msg(odd, [])
    assert "request" in page.say("hello")


def test_libraries_come_on_request_and_are_in_no_saved_notebook(rich):
    chat, _, page = rich()
    answer = page.say("libraries")
    assert answer["names"] == ["markdownit", "DOMPurify", "katex", "hljs", "katexCss"]
    assert sum(map(len, answer["buffers"])) > 500_000
    state = chat._front_end.get_state()
    assert len(str(state)) < 60_000
    assert "http" not in state["_css"]


def test_page_sends_pictures_beside_its_words_and_gets_them_back_small(rich_seeing):
    _, engine, page = rich_seeing
    assert _pane(page)["sees"]
    assert "error" not in page.say("send", buffers=[memoryview(PICTURE)], text="what?", names=["a.png"])
    question = page.wait_until_idle(2)["panes"][0]["messages"][0]
    assert question["images"][0]["title"] == "40 x 30 pixels"
    assert question["images"][0]["thumbnail"].startswith("data:image/jpeg;base64,")
    assert engine.requests[0].messages[0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    page.say("edit", buffers=[PICTURE], id=question["id"], text="which?", names=["b.png"], pane=0)
    page.wait_for(lambda each: each["kind"] == "state" and len((_first(each) or {"images": ""})["images"]) == 2)


def _pane(page):
    """What the page knows of the chat once its models are known."""
    while True:
        page.say("hello")
        pane = page.wait_for(lambda each: each["kind"] == "state")["panes"][0]
        if pane["models"]:
            return pane


def _first(state):
    return next(iter(state["panes"][0]["messages"]), None)


@pytest.mark.parametrize(
    ("names", "buffers", "said"),
    [
        (["<b>.svg"], [b"<svg/>"], "'<b>.svg' is not a picture that can be read here"),
        ([], [b"x"], "zip()"),
        ([None], [PICTURE], None),
    ],
)
def test_odd_files_of_a_page_are_answered_with_the_reason(rich_seeing, names, buffers, said):
    _, _, page = rich_seeing
    error = page.say("send", buffers=buffers, text="what?", names=names).get("error")
    assert (said in error) if said else error is None


@pytest.fixture
def rich_seeing(in_kernel):
    engine = SeeingEngine(["one"], ["two"])
    chat = kit.chat(engine, kind="rich")
    yield chat, engine, Page(chat._front_end)
    chat.close()


def test_page_is_not_offered_pictures_for_a_model_that_takes_text_only(rich):
    _, _, page = rich()
    assert _pane(page)["sees"] is False
    assert "scripted takes text only" in page.say("send", buffers=[PICTURE], text="x", names=["a.png"])["error"]


def test_call_is_run_from_the_page(rich):
    chat, _, page = rich([call("f")], ["done"])
    chat.tools(f)
    page.say("send", text="go")
    page.wait_for(lambda each: each["kind"] == "state" and _status(each) == "waiting")
    page.say("allow", allow=True, pane=0)
    page.wait_until_idle(3)
    assert chat.messages[-1]["content"] == "done"


def _status(state):
    return (state["panes"][0]["messages"] or [{"status": ""}])[-1]["status"]


def f():
    return "f"


def test_closed_chat_ends_its_thread_and_its_widget(rich):
    chat, _, page = rich()
    page.say("hello")
    thread, widget = chat._thread, chat._front_end
    assert thread.is_alive()
    chat.close()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert widget.comm is None or widget._model_id is None or widget.comm._closed


@pytest.fixture
def plain(in_kernel, make_chat):
    def make(*scripts):
        chat, engine = make_chat(*scripts, kind="plain")
        return chat, engine, chat._front_end

    return make


def wait_for_html(front_end, text):
    """Until the log has a text."""
    is_there = threading.Event()

    def look(change):
        if text in change["new"]:
            is_there.set()

    front_end._log.observe(look, names="value")
    if text not in front_end._log.value:
        assert is_there.wait(DEADLINE_S), front_end._log.value


def test_plain_chat_sends_streams_stops_and_branches(plain):
    chat, engine, front_end = plain(["some <b>text</b>", PAUSE], ["other"], ["edited"])
    session = chat._sessions[0]
    front_end._input.value = "go"
    front_end._send.click()
    wait_for_html(front_end, "some &lt;b&gt;text&lt;/b&gt;")
    assert (front_end._send.disabled, front_end._stop.disabled) == (True, False)
    front_end._stop.click()
    wait_for_html(front_end, "stopped")
    front_end._retry.click()
    wait_for_html(front_end, "other")
    assert session.wait(DEADLINE_S)
    chat._show_all()
    front_end._back.click()
    wait_for_html(front_end, "some &lt;b&gt;")
    front_end._edit.click()
    assert front_end._input.value == "go"
    front_end._input.value = "went"
    front_end._send.click()
    wait_for_html(front_end, "edited")
    assert engine.requests[-1].messages[-1]["content"] == "went"


def test_plain_chat_runs_calls_sets_options_and_exports(plain):
    chat, _, front_end = plain([call("f")], ["fine"])
    chat.tools(f)
    front_end._numbers["temperature"].value = "0.5"
    front_end._system.value = "Be brief."
    chat.send("go")
    chat._show_all()
    assert front_end._run.layout.display == ""
    front_end._run.click()
    wait_for_html(front_end, "fine")
    assert front_end._run.layout.display == "none"
    assert (chat._sessions[0].options.temperature, chat._sessions[0].options.system) == (0.5, "Be brief.")
    front_end._numbers["seed"].value = "many"
    assert front_end._note.value == "seed takes a number."
    assert chat._sessions[0].options.seed is None


def upload(front_end, *files):
    """As the page does, in the way of the version that is installed."""
    widget = front_end._pictures._upload
    if int(ipywidgets.__version__.partition(".")[0]) < 8:
        widget.data = [data for _, data in files]
        widget.metadata = [{"name": name} for name, _ in files]
        widget._counter += 1
    else:
        now = datetime.now(tz=UTC)
        value = [
            {"name": name, "type": "", "size": len(data), "content": memoryview(data), "last_modified": now}
            for name, data in files
        ]
        widget.value = value


def removers(front_end):
    return [each.children[1] for each in front_end._pictures._row.children]


def test_plain_chat_takes_files_shows_them_and_sends_them_as_they_are(in_kernel):
    engine = SeeingEngine(["fine"])
    chat = kit.chat(engine, kind="plain")
    front_end = chat._front_end
    chat._find_models()
    assert front_end._pictures._upload.layout.display == ""
    for _ in range(2):
        upload(front_end, ("a.png", PICTURE))
    assert len(removers(front_end)) == 2, "the same file may come again"
    upload(front_end, ("<b>.heic", b"ftypheic"))
    assert front_end._note.value.startswith("'<b>.heic' is not a picture")
    removers(front_end)[0].click()
    assert "data:image/jpeg" in front_end._pictures._row.children[0].children[0].value
    front_end._input.value = "what?"
    front_end._send.click()
    wait_for_html(front_end, "fine")
    assert "data:image/jpeg" in front_end._log.value
    assert removers(front_end) == []
    assert [part["type"] for part in engine.requests[0].messages[0]["content"]] == ["image_url", "text"]
    upload(front_end, *[(f"{number}.png", PICTURE) for number in range(5)])
    assert (len(removers(front_end)), front_end._note.value) == (4, "A question has at most 4 pictures.")
    chat.close()


def test_plain_chat_gives_back_what_a_model_for_text_does_not_take(plain):
    chat, engine, front_end = plain()
    chat._find_models()
    assert front_end._pictures._upload.layout.display == "none"
    upload(front_end, ("a.png", PICTURE))
    front_end._input.value = "what?"
    is_told = threading.Event()
    front_end._note.observe(lambda change: "text only" in change["new"] and is_told.set(), names="value")
    front_end._send.click()
    assert is_told.wait(DEADLINE_S)
    assert (front_end._input.value, len(removers(front_end))) == ("what?", 1)
    assert engine.requests == []


def test_kind_that_is_not_installed_says_what_to_install_and_auto_takes_the_other(in_kernel, monkeypatch):
    monkeypatch.setattr(front_ends, "has_anywidget", lambda: False)
    with pytest.raises(MissingDependencyError, match="pip install"):
        kit.chat("mock", kind="rich")
    assert type(kit.chat("mock")._front_end).__name__ == "PlainChat"
    monkeypatch.setattr(front_ends, "version_of", lambda package: None)
    with pytest.raises(MissingDependencyError, match="ipywidgets"):
        kit.chat("mock", kind="plain")
    assert kit.chat("mock")._front_end is None
