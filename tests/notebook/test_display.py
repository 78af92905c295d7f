"""How a server looks in a kernel: the card, its key row, its life; and plain text elsewhere."""

from __future__ import annotations

import os

import pytest

import llmapi_kit as kit
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.notebook import live_card
from llmapi_kit.notebook.card import card_state
from tests.notebooks.kernels import holds, html_of, mimes_of, run_cells, text_of

LAUNCH = "import os, llmapi_kit as kit\nserver = kit.launch('mock', port=0, api_key=os.environ['CANARY'])"
WIDGET = "application/vnd.jupyter.widget-view+json"
KEY = "canary-of-a-long-key"


@pytest.fixture(autouse=True)
def canary(monkeypatch):
    monkeypatch.setenv("CANARY", KEY)


@pytest.fixture
def server():
    yield kit.launch(MockEngine(), port=0, api_key=KEY)
    kit.stop_all()


@pytest.mark.slow
def test_last_line_of_a_cell_shows_card_and_key_row_without_the_key(tmp_path):
    nb = run_cells(tmp_path, LAUNCH + "\nserver")
    (cell,) = nb.cells
    assert "Model server running" in html_of(cell)
    assert "llmapi_kit server, running" in text_of(cell)
    assert WIDGET in mimes_of(cell)
    assert "key_row" in str(nb.metadata.widgets) or "KeyRow" in str(nb.metadata.widgets)
    assert not holds(nb, KEY)


@pytest.mark.slow
@pytest.mark.parametrize(
    "without",
    [
        "import sys; sys.modules['anywidget'] = None",
        "import llmapi_kit.notebook.live_card as live_card; live_card.has_anywidget = lambda: False",
    ],
    ids=["broken", "not-installed"],
)
def test_without_anywidget_the_card_still_shows_and_says_where_the_key_is(tmp_path, without):
    nb = run_cells(tmp_path, without, LAUNCH + "\nserver")
    assert WIDGET not in mimes_of(nb.cells[1])
    assert "server.api_key" in html_of(nb.cells[1])
    assert not holds(nb, KEY)


@pytest.mark.slow
def test_card_above_changes_when_the_server_stops(tmp_path):
    wait = """
import llmapi_kit.notebook.live_card as live_card
watcher = live_card._watchers[server]
server.stop()
watcher.join(20)
assert not watcher.is_alive()
"""
    nb = run_cells(tmp_path, LAUNCH + "\nserver", wait, "server")
    assert "Model server stopped" in html_of(nb.cells[0])
    assert "Model server running" not in html_of(nb.cells[0])
    assert "Model server stopped" in html_of(nb.cells[2])
    assert WIDGET not in mimes_of(nb.cells[2])


@pytest.mark.slow
def test_server_in_a_list_or_printed_is_plain_text_without_the_key(tmp_path):
    nb = run_cells(tmp_path, LAUNCH, "print(server)", "[server]")
    assert "llmapi_kit server, running" in text_of(nb.cells[1])
    assert "llmapi_kit server, running" in text_of(nb.cells[2])
    assert not holds(nb, KEY)


def test_terminal_shows_plain_text(server):
    assert KEY not in repr(server)
    assert not hasattr(server, "_repr_html_")


class FakeHandle:
    def __init__(self):
        self.drawn = []

    def update(self, bundle, raw):
        self.drawn.append(bundle)


def test_watcher_draws_on_a_change_only(server):
    handle = FakeHandle()
    watcher = live_card._Watcher(server, card_state(server))
    watcher.add(handle)
    watcher._draw(server)
    assert handle.drawn == []
    server.stop()
    watcher._draw(server)
    watcher._draw(server)
    assert len(handle.drawn) == 1
    assert "Model server stopped" in handle.drawn[0]["text/html"]


def test_watcher_keeps_no_server_alive():
    server = kit.launch(MockEngine(), port=0)
    watcher = live_card._Watcher(server, card_state(server))
    kit.stop_all()
    assert watcher._server() is server
    assert [name for name, value in vars(watcher).items() if value is server] == []


class FakePage:
    """What the widget sends to the page."""

    def __init__(self, row):
        self.sent = []
        row.send = lambda content, buffers=None: self.sent.append(content)
        self._row = row

    def ask(self, message):
        self.sent.clear()
        self._row._answer(self._row, message, None)
        return self.sent


@pytest.fixture
def row(server):
    from llmapi_kit.notebook.key_row import KeyRow

    row = KeyRow(server)
    yield row
    row.close()


def test_key_comes_as_a_message_to_the_question_and_is_in_no_trait(server, row):
    page = FakePage(row)
    assert page.ask({"kind": "ask", "request": "7"}) == [{"kind": "key", "request": "7", "key": KEY}]
    assert KEY not in str(row.get_state())


@pytest.mark.parametrize("message", [{}, {"kind": "other"}, "ask", None, 3])
def test_other_messages_are_answered_with_nothing(row, message):
    assert FakePage(row).ask(message) == []


def test_stopped_server_gives_its_key_away_no_more(server, row):
    server.stop()
    (answer,) = FakePage(row).ask({"kind": "ask", "request": "7"})
    assert answer["kind"] == "refused"
    assert KEY not in str(answer)


@pytest.mark.slow
def test_kernel_of_a_test_has_a_home_of_its_own(tmp_path):
    (cell,) = run_cells(tmp_path, "import os; print(os.environ['LLMAPI_KIT_HOME'])").cells
    assert text_of(cell).strip() == os.environ["LLMAPI_KIT_HOME"]
