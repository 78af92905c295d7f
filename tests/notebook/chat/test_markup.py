"""What a saved notebook shows of a chat, and that a model's text can do nothing there."""

from __future__ import annotations

import time

import pytest

from llmapi_kit.notebook.chat.markup import DOLLAR, MAX_RENDERED, render_markdown
from llmapi_kit.notebook.chat.transcript import transcript
from llmapi_kit.types import Delta

from .conftest import call

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("<script>x</script>", "&lt;script&gt;"),
        ("[a](javascript:alert(1))", "[a](javascript:alert(1))"),
        ("[a](https://a.example)", '<a href="https://a.example">a</a>'),
        ("![a](https://a.example/x.png)", '!<a href="https://a.example/x.png">a</a>'),
        ("a\u202eb\u200b", "a\u27e6U+202E\u27e7b\u27e6U+200B\u27e7"),
        ("$x\\,y_1*b*$ is", "<p>$x\\,y_1*b*$ is</p>"),
        ("$5 or $6", f"<p>{DOLLAR}5 or {DOLLAR}6</p>"),
        ("\\(a\\,b\\)", "\\(a\\,b\\)"),
        ("| a |\n|---|\n| b |", "<td>b</td>"),
    ],
)
def test_markdown_becomes_html_that_can_do_nothing(text, html):
    assert html in render_markdown(text)


def test_long_texts_are_not_parsed():
    shown = render_markdown("<b>" * MAX_RENDERED)
    assert shown.startswith("<pre")
    assert "<b>" not in shown


def test_transcript_has_all_that_was_said_in_three_forms(make_chat):
    chat, _ = make_chat([Delta("", reasoning="hm **so**"), "Yes, `x`.", call("f", '{"a": 1}')], ["<i>Done</i>."])
    chat.set(system="Be <brief>.")
    chat.tools(f, run="always")
    chat.send("Is it <b>so</b>?")
    bundle = transcript(chat._sessions)
    html = bundle["text/html"]
    for part in ("Be &lt;brief&gt;.", "Is it &lt;b&gt;so&lt;/b&gt;?", "<strong>so</strong>", "<code>x</code>"):
        assert part in html
    assert "Function f: done" in html
    assert "&lt;i&gt;Done&lt;/i&gt;." in html
    assert "7 + " in html
    for mime in ("text/markdown", "text/plain"):
        assert "**System:** Be <brief>." in bundle[mime]
        assert "Calls `f`:" in bundle[mime]


def f(a: int):
    return a


def test_empty_conversation_says_so(make_chat):
    chat, _ = make_chat()
    assert "The conversation is empty." in transcript(chat._sessions)["text/html"]


class SlowOutput:
    """A cell's output that takes a moment to be brought up to date."""

    def __init__(self):
        self.shown = ""

    def update(self, bundle, raw):
        time.sleep(0.05)
        self.shown = bundle["text/html"]


def test_transcript_is_up_to_date_when_send_returns(make_chat):
    # It was not: the update of a cell's last answer came after the cell, where a program that runs it listens no more
    chat, _ = make_chat(["one"], ["two"])
    output = SlowOutput()
    chat._transcripts.append(output)
    for answer in ("one", "two"):
        chat.send("?")
        assert answer in output.shown
