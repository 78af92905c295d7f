"""Steps of loading: one output in a cell, which the card takes the place of; log lines in a program."""

from __future__ import annotations

import logging
import threading

import pytest

import llmapi_kit as kit
from llmapi_kit import presenter
from llmapi_kit.notebook.progress_display import NotebookPresenter
from llmapi_kit.progress import report
from tests.notebooks.kernels import html_of, run_cells, text_of


@pytest.fixture
def drawn(monkeypatch):
    """All that a display showed, in turn."""
    shown = []

    class Handle:
        def update(self, bundle, raw):
            shown.append(bundle["text/plain"])

    def display(bundle, raw, display_id):
        shown.append(bundle["text/plain"])
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    return shown


def test_steps_are_one_display_and_end_in_what_they_took(drawn):
    def work():
        report("importing torch")
        report("downloading", done=1e9, total=4e9, unit="B")
        report("downloading", done=1.1e9, total=4e9, unit="B")  # too soon after the other to be drawn
        return "done"

    assert NotebookPresenter().load(work) == "done"
    assert drawn[:2] == ["Importing torch …", "Downloading … 1.00 of 4.00 GB"]
    assert len(drawn) == 3
    assert drawn[2].startswith("Ready after ")


def test_work_that_fails_leaves_the_step_at_which_it_did(drawn):
    def work():
        report("reading weights")
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        NotebookPresenter().load(work)
    assert drawn[-1] == "Stopped at: reading weights"


def test_work_without_steps_shows_nothing(drawn):
    NotebookPresenter().load(lambda: None)
    assert drawn == []


def test_a_thread_shows_no_steps_as_they_would_land_in_another_cell(drawn):
    thread = threading.Thread(target=NotebookPresenter().load, args=(lambda: report("reading weights"),))
    thread.start()
    thread.join()
    assert drawn == []


def test_a_program_logs_the_steps(caplog):
    caplog.set_level(logging.INFO, "llmapi_kit")
    kit.launch("mock", port=0).stop()
    assert "starting the server" in caplog.messages


def test_a_load_within_a_launch_is_shown_by_the_launch(monkeypatch):
    calls = []

    class Spy(presenter.Presenter):
        def load(self, work):
            calls.append("load")
            return super().load(work)

    monkeypatch.setattr(presenter._Current, "presenter", Spy())
    inner = presenter.loads(lambda: "model")
    assert presenter.launches(inner)() == "model"
    assert calls == ["load"]


def test_in_a_cell_the_card_takes_the_place_of_the_steps(tmp_path):
    (load, launch) = run_cells(
        tmp_path, "import llmapi_kit as kit\nmodel = kit.load('pocket')", "server = kit.launch(model, port=0)"
    ).cells
    assert "reading weights" in text_of(load)
    assert "Ready after" in text_of(load)
    assert len(launch.outputs) == 1
    assert "it was running" in html_of(launch)
