"""JupyterLab without anywidget, in the kernel and in the page: core ipywidgets stand for card, dashboard and chat."""

from __future__ import annotations

import io
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter
from PIL import Image
from playwright.sync_api import expect

from .axe import serious_faults
from .chat_box import ChatBox
from .lab import DARK, LIGHT, new_page

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]
HERE = Path(__file__).parent
LAUNCH = """
import sys
sys.modules["anywidget"] = None  # as where it is not installed
import llmapi_kit as kit
from chat_engine import ChatEngine, SeeingEngine
from llmapi_kit.notebook.dashboard import dashboard
dashboard.SAMPLE_EVERY_S = dashboard.DRAW_EVERY_S = 0.3  # nobody waits here to read it
server = kit.launch(ChatEngine(name="scripted"), port=0)
def weather(city: str) -> str:
    "The weather in a city"
    return f"18 degrees in {city}"
"""


@pytest.fixture(scope="module")
def opened(chromium, jupyter):
    """A page on a notebook with all three, and its path."""
    path = jupyter.add_notebook(
        "core",
        HERE / "chat_engine.py",
        launch=LAUNCH,
        board="board = kit.dashboard(server)",
        chat="chat = kit.chat(server)",
        sight="sight = kit.chat(SeeingEngine())",
    )
    with new_page(chromium) as page:
        with jupyter.without("anywidget"):
            page.open(jupyter.address(path))
        page.run_all()
        yield page, path
    jupyter.begin_anew()


@pytest.fixture
def lab(opened):
    return opened[0]


def cell(lab, number):
    return lab.page.locator(".jp-Cell").nth(number)


def button(lab, number, name):
    return cell(lab, number).get_by_role("button", name=name, exact=True)


def test_nothing_is_asked_of_anywidget(lab):
    assert not lab.page.evaluate("() => window.jupyterapp.hasPlugin('anywidget')")
    lab.execute("assert not any('anywidget' in name for name, module in [*sys.modules.items()] if module)")


def test_plain_chat_streams_and_stops_and_the_plain_dashboard_cancels(lab):
    chat = ChatBox(lab, 2)
    area = chat.root.get_by_placeholder("Message")
    area.fill("think")
    chat.button("Send").click()
    chat.root.get_by_text("Hello!", exact=True).wait_for()
    area.fill("wait a bit")
    chat.button("Send").click()
    chat.root.get_by_text("a bit", exact=True).wait_for()
    chat.button("Stop").click()
    chat.root.get_by_text("stopped").first.wait_for()
    # Else the one that was stopped is still listed, and is what Cancel is pressed for
    cell(lab, 1).locator("option", has_text="No requests are running.").wait_for(state="attached")
    chat.button("Retry").click()
    cell(lab, 1).locator("option", has_text="running").wait_for(state="attached")
    button(lab, 1, "Cancel").click()
    chat.root.get_by_text("cancelled by whoever runs this server").wait_for()
    cell(lab, 1).locator("option", has_text="No requests are running.").wait_for(state="attached")
    expect(button(lab, 1, "Cancel")).to_be_disabled()


def test_plain_chat_runs_functions_after_a_click_edits_and_begins_anew(lab):
    chat = ChatBox(lab, 2)
    area = chat.root.get_by_placeholder("Message")
    lab.execute("chat.tools(weather)")
    area.fill("tool please")
    chat.button("Send").click()
    chat.button("Run").click()
    chat.root.get_by_text("You said: 18 degrees in Paris").wait_for()
    expect(chat.button("Run")).not_to_be_visible()
    chat.button("Edit").click()
    chat.lab.page.wait_for_function("element => element.value === 'tool please'", arg=area.element_handle())
    area.fill("first")
    chat.button("Send").click()
    chat.root.get_by_text("You said: first").wait_for()
    chat.button("Previous version").click()
    chat.root.get_by_text("You said: 18 degrees in Paris").wait_for()
    chat.root.get_by_role("button", name="Settings and export").click()
    chat.button("New chat").click()
    chat.root.get_by_text("Ask something.").wait_for()
    chat.button("Previous version").wait_for()


def test_plain_chat_takes_pictures_which_can_be_removed_and_sends_them_as_they_are(lab):
    chat, file = ChatBox(lab, 3), io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(file, "PNG")
    picture = {"name": "dot.png", "mimeType": "image/png", "buffer": file.getvalue()}
    wrong = {"name": "<b>x</b>.svg", "mimeType": "image/svg+xml", "buffer": b"<svg/>"}
    upload = chat.root.locator("button", has_text="Add pictures")
    for files in ([{**picture, "name": "1.png"}, {**picture, "name": "2.png"}], [wrong]):
        with lab.page.expect_file_chooser() as chooser:
            upload.click()
        chooser.value.set_files(files)
        chat.root.locator("button", has_text="Remove picture").nth(1).wait_for()
    chat.root.get_by_text("'<b>x</b>.svg' is not a picture that can be read here").wait_for()
    chat.button("Remove picture 1").click()
    chat.button("Remove picture 2").wait_for(state="detached")
    chat.root.get_by_placeholder("Message").fill("what is it?")
    chat.button("Send").click()
    chat.root.get_by_text(f"I see 1: PNG of {len(picture['buffer'])} bytes").wait_for()
    chat.button("Remove picture 1").wait_for(state="detached")
    assert chat.root.get_by_alt_text("Picture 1: 40 x 30 pixels").evaluate("image => image.naturalWidth") == 40
    expect(ChatBox(lab, 2).root.locator("button", has_text="Add pictures")).not_to_be_visible()


def test_plain_card_stops_and_restarts_its_server(lab):
    button(lab, 0, "Stop").click()
    cell(lab, 0).get_by_text("it was stopped").wait_for()
    expect(button(lab, 0, "Stop")).to_be_disabled()
    button(lab, 0, "Restart").click()
    cell(lab, 0).get_by_text("it was running").wait_for()
    lab.execute("assert server.is_running")


@pytest.mark.parametrize("theme", [DARK, LIGHT])
def test_axe_finds_nothing_serious(lab, theme):
    lab.use_theme(theme)
    for number in range(4):
        assert serious_faults(cell(lab, number).locator(".jp-Cell-outputArea")) == []


def test_saved_and_reopened_there_is_html_and_no_error_in_place_of_buttons(opened, jupyter):
    lab, path = opened
    assert lab.errors == []
    lab.save()
    lab.restart_kernel()
    nb = nbformat.read(path, as_version=4)
    html, _ = HTMLExporter().from_notebook_node(nb)
    lab.page.goto("about:blank")
    lab.open(jupyter.address(path))
    lab.page.get_by_text("it was running").wait_for()
    lab.page.get_by_text("The conversation is empty.", exact=True).first.wait_for()
    shown = lab.page.locator(".jp-Notebook").inner_text()
    assert "Error displaying widget" not in shown
    assert "The conversation is empty." in html
    assert "it was running" in html
