"""The card as HTML: what it says in each state, that it is escaped and that it holds no key."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest

import llmapi_kit as kit
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.notebook.card import CardState, card_html, card_state

STATE = CardState(
    is_running=True,
    url="http://127.0.0.1:8000",
    models=("pocket",),
    masked_key="sk-llmapi-…abcd",
    key_file="/keys/x.key",
)
VOID = {"br", "hr", "img", "input", "meta", "link"}


class Balance(HTMLParser):
    """Fails on tags that are not closed in order; collects text and tags."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], set(), ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(html):
    parser = Balance()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture
def server():
    yield kit.launch(MockEngine(name="<b>bold</b>"), port=0)
    kit.stop_all()


def test_card_of_a_server_masks_the_key_and_escapes_names(server):
    html = card_html(card_state(server))
    assert server.api_key not in html
    assert server.api_key[-4:] in html
    assert "<b>" not in html
    assert "<b>bold</b>" in read(html).text


def test_card_says_where_how_and_until_when():
    text = read(card_html(STATE)).text
    assert "Model server running" in text
    assert "http://127.0.0.1:8000/v1" in text
    assert "server.api_key" in text
    assert "server.stop()" in text
    assert 'kit.connect("http://127.0.0.1:8000")' in text
    assert "$(cat /keys/x.key)" in text


def test_card_needs_neither_script_nor_style_sheet():
    assert read(card_html(STATE)).tags <= {"div", "span", "strong", "code", "details", "summary", "pre", "s"}


def test_stopped_server_has_no_snippets(server):
    server.stop()
    text = read(card_html(card_state(server))).text
    assert "Model server stopped" in text
    assert "curl" not in text


def test_server_that_died_says_why():
    text = read(card_html(replace(STATE, is_running=False, failure="OSError: <gone>"))).text
    assert "Model server died" in text
    assert "OSError: <gone>" in text


def test_server_without_a_key_says_so():
    text = read(card_html(replace(STATE, masked_key="none", key_file=None))).text
    assert "none: only this machine" in text
    assert "Authorization" not in text


def test_public_url_comes_first_and_asks_for_the_key_in_the_environment():
    text = read(card_html(replace(STATE, tunnel="up", public_url="https://x.example"))).text
    assert "https://x.example/v1" in text
    assert text.index('os.environ["LLMAPI_KIT_API_KEY"]') < text.index("kit.connect")
    assert "Bearer $LLMAPI_KIT_API_KEY" in text


def test_dead_tunnel_is_shown_as_dead_with_its_reason():
    state = replace(STATE, tunnel="down", public_url="https://x.example", reason="The agent ended <badly>.")
    html = card_html(state)
    assert "<s style" in html
    text = read(html).text
    assert "down: The agent ended <badly>." in text
    assert "anywhere" not in text


def test_equal_states_need_no_new_drawing(server):
    assert card_state(server) == card_state(server)
