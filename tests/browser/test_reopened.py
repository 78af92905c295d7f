"""Card, dashboard, chat and chooser: run again, interrupted, restarted, saved, opened again, exported."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter

from .chat_box import ChatBox
from .lab import CURRENT

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]
HERE = Path(__file__).parent
CELLS = {
    "launch": """
import threading
import llmapi_kit as kit
from chat_engine import ChatEngine
server = kit.launch(ChatEngine(name="scripted"), port=0)
""",
    "board": "board = kit.dashboard(server)",
    "chat": "chat = kit.chat(server)",
    "choose": "choice = kit.choose()",
}
ALIVE = (".llmapi-kit-card button", ".llmapi-kit-dashboard canvas", ".llmapi-kit-chat textarea", ".llmapi-kit-chooser")


@pytest.fixture(scope="module")
def opened(jupyter, open_lab):
    """A page on a notebook with all four, and its path."""
    path = jupyter.add_notebook("reopened", HERE / "chat_engine.py", **CELLS)
    page = open_lab(path)
    page.run_all()
    return page, path


def cell(lab, name):
    return lab.page.locator(".jp-Cell").nth(list(CELLS).index(name))


def wait_until_all_are_alive(lab):
    for name, selector in zip(CELLS, ALIVE, strict=True):
        cell(lab, name).scroll_into_view_if_needed()
        cell(lab, name).locator(selector).first.wait_for()


def test_run_again_each_is_there_once_and_alive(opened):
    lab, _ = opened
    lab.execute("first = board")
    lab.run_all()
    wait_until_all_are_alive(lab)
    for name, kind in (("launch", "card"), ("board", "dashboard"), ("chat", "chat"), ("choose", "chooser")):
        assert cell(lab, name).locator(f".llmapi-kit-{kind}").count() == 1
    lab.execute("assert not first.is_alive() and board.is_alive()")


def test_interrupted_kernel_takes_nothing_along(opened):
    lab, _ = opened
    lab.start("threading.Event().wait(60)")
    lab.page.wait_for_function(f"() => {CURRENT}.sessionContext.session.kernel.status === 'busy'")
    lab.interrupt()
    chat = ChatBox(lab, list(CELLS).index("chat"))
    chat.ask("still there?")
    chat.answers().get_by_text("You said: still there?").wait_for()
    cell(lab, "launch").get_by_text("Model server running", exact=True).wait_for()
    wait_until_all_are_alive(lab)
    assert lab.errors == []


def test_restarted_saved_opened_again_and_exported_each_says_what_is_so(opened, jupyter):
    lab, path = opened
    lab.restart_kernel()
    cell(lab, "launch").get_by_text("Model server gone", exact=True).wait_for()
    cell(lab, "board").get_by_text("The kernel was restarted or has ended").wait_for()
    ChatBox(lab, list(CELLS).index("chat")).status.get_by_text("The kernel of this chat is gone").wait_for()
    cell(lab, "choose").get_by_text("Nothing happens? The kernel is busy with a cell, or gone").wait_for()
    lab.save()
    html, _ = HTMLExporter().from_notebook_node(nbformat.read(path, as_version=4))
    lab.page.goto("about:blank")
    lab.open(jupyter.address(path))
    lab.page.get_by_text("You said: still there?").first.wait_for()
    shown = lab.page.locator(".jp-Notebook").inner_text()
    for text in (
        "it was running",
        "requests answered",
        "You said: still there?",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    ):
        assert text in html
        assert text in shown
    assert "Error displaying widget" not in shown
    assert "Model server running" not in shown
