"""The card as HTML: what it says in each state, that it is escaped and that it holds no key."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest

import llmapi_kit as kit
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.notebook.card import CardState, card_content, card_html, card_state, live_state

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


def draw(state):
    return card_html(state, as_of=0.0, place="here")


def test_card_of_a_server_masks_the_key_and_escapes_names(server):
    html = draw(card_state(server))
    assert server.api_key not in html
    assert server.api_key[-4:] in html
    assert server.api_key not in str(live_state(card_state(server), "idle"))
    assert "<b>" not in html
    assert "<b>bold</b>" in read(html).text


def test_card_says_where_how_and_until_when():
    text = read(draw(replace(STATE, aliases=(("gpt-4o", "pocket"),), started_at=86400.0))).text
    assert "http://127.0.0.1:8000/v1" in text
    assert "server.api_key" in text
    assert "gpt-4o = pocket" in text
    assert "Launched1970-01-0" in text
    assert "server.stop()" in card_content(STATE).hint
    assert text.index("OpenAI(") < text.index('kit.connect("http://127.0.0.1:8000")')
    assert "$(cat /keys/x.key)" in text


@pytest.mark.parametrize(
    ("state", "was"),
    [(STATE, "it was running"), (replace(STATE, is_running=False), "it was stopped"),
     (replace(STATE, is_running=False, failure="OSError"), "it had died")],
    ids=["running", "stopped", "died"],
)  # fmt: skip
def test_html_says_what_was_so_at_a_time_and_nothing_of_now(state, was):
    text = read(draw(state)).text
    assert "As of 1970-01-0" in text
    assert f" {was}. A page without its kernel can not tell" in text
    assert "Model server running" not in text
    assert "#2e9e5b" not in draw(state), "green says that it runs"


def test_card_needs_neither_script_nor_style_sheet():
    assert read(draw(STATE)).tags <= {"div", "span", "strong", "code", "details", "summary", "pre", "s"}


def test_stopped_server_has_no_snippets(server):
    server.stop()
    text = read(draw(card_state(server))).text
    assert card_content(card_state(server)).title == "Model server stopped"
    assert "curl" not in text


def test_server_that_died_says_why():
    state = replace(STATE, is_running=False, failure="OSError: <gone>")
    assert card_content(state).title == "Model server died"
    assert "OSError: <gone>" in read(draw(state)).text


def test_server_without_a_key_says_so():
    text = read(draw(replace(STATE, masked_key="none", key_file=None))).text
    assert "only this machine" in text
    assert "Authorization" not in text


def test_a_server_that_the_network_reaches_shows_its_address_there_and_warns():
    text = read(draw(replace(STATE, network_url="http://192.168.1.5:8000"))).text
    assert "http://192.168.1.5:8000/v1" in text
    assert "not encrypted" in text


def test_public_url_comes_first_and_asks_for_the_key_in_the_environment():
    text = read(draw(replace(STATE, tunnel="up", public_url="https://x.example"))).text
    assert "https://x.example/v1" in text
    assert text.index('os.environ["LLMAPI_KIT_API_KEY"]') < text.index("kit.connect")
    assert "Bearer $LLMAPI_KIT_API_KEY" in text


def test_dead_tunnel_is_shown_as_dead_with_its_reason():
    state = replace(STATE, tunnel="down", public_url="https://x.example", reason="The agent ended <badly>.")
    html = draw(state)
    assert "<s style" in html
    text = read(html).text
    assert "down: The agent ended <badly>." in text
    assert "anywhere" not in text


def test_link_that_was_not_reached_lately_is_still_to_be_copied_and_says_why():
    state = replace(STATE, tunnel="degraded", public_url="https://x.example", reason="It did not answer.")
    html = draw(state)
    assert "<s style" not in html
    text = read(html).text
    assert "https://x.example/v1" in text
    assert "degraded: It did not answer." in text


def test_models_that_the_latest_launch_replaced_are_named_until_the_next():
    server = kit.launch(["mock", MockEngine(name="second")], port=0)
    for model, replaced in ((MockEngine(name="third"), ("mock", "second")), (MockEngine(name="third"), ())):
        assert kit.launch(model, port=0) is server
        assert card_state(server).replaced == replaced
        assert ("Instead ofmock, second" in read(draw(card_state(server))).text) is bool(replaced)
    kit.stop_all()
    assert "Instead of" not in draw(replace(STATE, is_running=False, replaced=("mock",)))


def test_equal_states_need_no_new_drawing(server):
    assert card_state(server) == card_state(server)
