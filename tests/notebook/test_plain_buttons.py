"""Buttons of core ipywidgets below card and dashboard; also run on ipywidgets 7.7."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

import llmapi_kit as kit
from llmapi_kit.api.running_requests import RunningRequest
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ServerError
from llmapi_kit.notebook import live_view, plain_buttons
from llmapi_kit.notebook.dashboard.cancel_row import CancelRow
from llmapi_kit.notebook.live_card import LiveCard
from llmapi_kit.notebook.plain_buttons import ABOVE_CLASS, PlainButtons

REQUEST = RunningRequest("chatcmpl-12345678", "this key", "POST /v1/completions", "mock", "running", 3, 1200, 2.0)


def click(buttons, title):
    """Click, and wait until what it asked for is done."""
    buttons._buttons[title].click()
    for thread in threading.enumerate():
        if thread.name == f"llmapi_kit {title.lower()}":
            thread.join(20)


def test_what_a_click_does_is_not_done_in_the_kernels_thread_and_its_failure_stands_beside_the_button():
    done = []

    def fail():
        raise ServerError("The server is <gone>.")

    buttons = PlainButtons({"Stop": lambda: done.append(threading.current_thread()), "Restart": fail})
    click(buttons, "Stop")
    assert done
    assert done[0] is not threading.main_thread()
    click(buttons, "Restart")
    assert "The server is &lt;gone&gt;." in buttons._note.value
    click(buttons, "Stop")
    assert "gone" not in buttons._note.value


@pytest.fixture
def card(monkeypatch):
    """A card without anywidget, whose thread does not run."""
    monkeypatch.setattr(live_view, "has_anywidget", lambda: False)
    card = LiveCard(kit.launch(MockEngine(), port=0))
    yield card
    kit.stop_all()


def test_card_without_anywidget_stops_and_restarts_its_server(card):
    server = card._server()
    assert ABOVE_CLASS in card._bundle()["text/html"]
    click(card._buttons, "Stop")
    assert not server.is_running
    assert card._buttons._buttons["Stop"].disabled
    click(card._buttons, "Restart")
    assert server.is_running
    assert not card._buttons._buttons["Stop"].disabled


def test_without_ipywidgets_there_are_no_buttons(monkeypatch):
    monkeypatch.setattr(live_view, "has_anywidget", lambda: False)
    monkeypatch.setattr(plain_buttons, "version_of", lambda package: None)
    card = LiveCard(kit.launch(MockEngine(), port=0))
    assert card._buttons is None
    assert ABOVE_CLASS not in card._bundle()["text/html"]
    kit.stop_all()


def test_the_request_that_was_chosen_stays_so_while_it_runs_and_is_the_one_that_is_cancelled():
    cancelled = []
    row = CancelRow(cancelled.append)
    assert row._buttons["Cancel"].disabled
    other = replace(REQUEST, id="chatcmpl-87654321")
    row.update([REQUEST, other])
    row._requests.value = other.id
    row.update([replace(REQUEST, completion_tokens=1300), other])
    assert row._requests.value == other.id
    click(row, "Cancel")
    assert cancelled == [other.id]
    row.update([REQUEST])
    assert row._requests.value == REQUEST.id
    assert row._requests.options[0][0] == "…12345678 · mock · running · 1,200 tokens"
    row.update([])
    assert row._buttons["Cancel"].disabled
