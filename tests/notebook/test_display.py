"""How a server looks in a kernel: the card, what it is asked, its life; and plain text elsewhere."""

from __future__ import annotations

import os
import threading

import pytest

import llmapi_kit as kit
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.notebook.live_card import LiveCard
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


STOP_AND_START = """
from llmapi_kit.notebook import live_card
card = live_card._cards[server]
drawn = []
card._handles.append(type("Handle", (), {"update": lambda self, bundle, raw: drawn.append(bundle["text/html"])})())
server.stop()
card.look(server)
server.restart()
card.look(server)
print(*drawn)
"""


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """A notebook that launches, and then shows the server in several ways."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CANARY", KEY)
        patch.setenv("LLMAPI_KIT_HOME", str(tmp_path_factory.mktemp("home")))
        shown = (LAUNCH, LAUNCH + "\nserver", "server", "print(server)", "[server]", STOP_AND_START)
        return run_cells(tmp_path_factory.mktemp("notebook"), *shown)


@pytest.mark.slow
def test_launch_shows_the_card_once_also_when_the_cell_ends_with_the_name(launched):
    for cell in launched.cells[:3]:
        (output,) = cell.outputs
        assert set(output.data) == {"text/plain", "text/html"}, "a saved widget would show an error"
        assert "it was running" in html_of(cell)
        assert "llmapi_kit server, running" in text_of(cell)
    assert not holds(launched, KEY)


@pytest.mark.slow
@pytest.mark.parametrize(
    "without",
    [
        "import sys; sys.modules['anywidget'] = None",
        "import llmapi_kit.notebook.live_view as live_view; live_view.has_anywidget = lambda: False",
    ],
    ids=["broken", "not-installed"],
)
def test_without_anywidget_card_and_dashboard_still_show_and_the_dashboard_moves(tmp_path, without):
    moved = """
import time
board._is_closed  # it is drawn again after requests
with server.client() as client:
    client.completions.create(model="mock", prompt="a b c")
deadline = time.monotonic() + 20
while "1 requests answered" not in repr(board) and time.monotonic() < deadline:
    time.sleep(0.05)
board.close()
"""
    nb = run_cells(tmp_path, without, LAUNCH, "board = kit.dashboard(server)", moved)
    assert "server.api_key" in html_of(nb.cells[1])
    assert "<svg" in html_of(nb.cells[2])
    assert "1 requests answered" in html_of(nb.cells[2])
    assert not holds(nb, KEY)


@pytest.mark.slow
def test_where_outputs_have_frames_of_their_own_the_widget_is_displayed_beside_the_html(tmp_path):
    (cell,) = run_cells(tmp_path, "import os; os.environ['VSCODE_PID'] = '1'\n" + LAUNCH).cells
    assert mimes_of(cell) == {"text/plain", "text/html", WIDGET}


@pytest.mark.slow
def test_card_above_changes_when_the_server_stops_and_when_it_starts_again(launched):
    above, below = launched.cells[0], launched.cells[-1]
    assert text_of(below).index("it was stopped") < text_of(below).index("it was running")
    assert "it was running" in html_of(above)


@pytest.mark.slow
def test_server_in_a_list_or_printed_is_plain_text_without_the_key(launched):
    for cell in launched.cells[3:5]:
        assert "llmapi_kit server, running" in text_of(cell)
        assert not mimes_of(cell) - {"text/plain"}
    assert not holds(launched, KEY)


def test_terminal_shows_plain_text(server):
    assert KEY not in repr(server)
    assert not hasattr(server, "_repr_html_")


class FakeHandle:
    def __init__(self):
        self.drawn = []

    def update(self, bundle, raw):
        self.drawn.append(bundle)


@pytest.fixture
def card(server):
    """A card whose thread does not run, and what it sends to pages."""
    card = LiveCard(server)
    card.sent = []
    card.view._widget.send = card.sent.append
    card._handles = [FakeHandle()]
    yield card
    card.view.close("The test is over.")


def test_a_card_is_drawn_on_a_change_only(server, card):
    card.look(server)
    drawn = card._handles[0].drawn
    assert drawn == []
    server.stop()
    card.look(server)
    card.look(server)
    assert len(drawn) == 1
    assert "it was stopped" in drawn[0]["text/html"]
    assert card.sent[-1]["state"]["title"] == "Model server stopped"


def test_a_card_keeps_no_server_alive():
    server = kit.launch(MockEngine(), port=0)
    card = LiveCard(server)
    kit.stop_all()
    assert card._server() is server
    assert [name for name, value in vars(card).items() if value is server] == []
    card.view.close("The test is over.")


def ask(card, message):
    """What the page gets for a message, when the work is done."""
    card.sent.clear()
    card.view._hear(None, message, None)
    for thread in threading.enumerate():
        if thread.name == "llmapi_kit view":
            thread.join(20)
    return card.sent


def test_key_comes_as_a_message_to_the_question_and_is_in_no_trait(card):
    answer, state = ask(card, {"kind": "do", "action": "key", "request": "7"})
    assert answer == {"kind": "done", "request": "7", "key": KEY}
    assert KEY not in str(state)
    assert KEY not in str(card.view._widget.get_state())


@pytest.mark.parametrize("message", [{}, {"kind": "other"}, {"kind": "do", "action": "__init__"}, "ask", None, 3])
def test_other_messages_are_answered_with_nothing(card, message):
    assert ask(card, message) == []


def test_stopped_server_gives_its_key_away_no_more(server, card):
    server.stop()
    (answer,) = ask(card, {"kind": "do", "action": "key", "request": "7"})
    assert answer == {"kind": "failed", "request": "7", "text": "The server is stopped."}


def test_a_restart_whose_model_is_unloaded_says_so_in_the_card(server, card):
    server.stop()
    server.engines[0].close()
    sent = ask(card, {"kind": "do", "action": "restart", "request": "7"})
    answer = next(message for message in sent if message.get("request") == "7")  # the card's state may come, too
    assert "Launch it again" in answer["text"]


@pytest.mark.slow
def test_kernel_of_a_test_has_a_home_of_its_own(tmp_path):
    (cell,) = run_cells(tmp_path, "import os; print(os.environ['LLMAPI_KIT_HOME'])").cells
    assert text_of(cell).strip() == os.environ["LLMAPI_KIT_HOME"]
