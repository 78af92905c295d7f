"""Card, dashboard and chat in Notebook 7, which has JupyterLab's outputs in a page of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from .chat_box import ChatBox
from .lab import new_page

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]
HERE = Path(__file__).parent
LAUNCH = """
import llmapi_kit as kit
from chat_engine import ChatEngine
from llmapi_kit.notebook.dashboard import dashboard
dashboard.SAMPLE_EVERY_S = 0.3  # nobody waits here to read it
server = kit.launch(ChatEngine(name="scripted"), port=0)
"""


@pytest.fixture(scope="module")
def notebook(chromium, jupyter):
    """A page on a notebook with all three."""
    path = jupyter.add_notebook(
        "notebook7",
        HERE / "chat_engine.py",
        launch=LAUNCH,
        board="board = kit.dashboard(server)",
        chat="kit.chat(server)",
    )
    with new_page(chromium) as page:
        page.open(jupyter.address(path, "notebook"))
        page.errors.clear()  # it has one of its own while it opens
        page.run_all()
        yield page
    jupyter.begin_anew()


def test_chat_streams_and_stops_and_the_dashboard_moves_with_it(notebook):
    chat = ChatBox(notebook, 2)
    chat.ask("count 60")
    chat.wait_for_answers(1)
    assert chat.answers().first.inner_text().split() == [f"word{number}" for number in range(60)]
    chat.ask("wait some")
    chat.answers().nth(1).get_by_text("some").wait_for()
    board = notebook.page.locator(".llmapi-kit-dashboard")
    board.get_by_role("button", name="Cancel request").wait_for()
    board.locator("canvas").first.wait_for()
    chat.button("Stop answering (Escape)").click()
    chat.wait_for_answers(2)
    board.get_by_text("No requests are running.").wait_for()


def test_card_stops_and_restarts_its_server_and_says_when_the_kernel_ended(notebook):
    card = notebook.page.locator(".llmapi-kit-card")
    for button, title in (("Stop", "Model server stopped"), ("Restart", "Model server running")):
        card.get_by_role("button", name=button, exact=True).click()
        card.get_by_text(title, exact=True).wait_for()
    assert notebook.errors == []
    notebook.restart_kernel()
    card.get_by_text("Model server gone", exact=True).wait_for()
    ChatBox(notebook, 2).status.get_by_text("The kernel of this chat is gone").wait_for()
