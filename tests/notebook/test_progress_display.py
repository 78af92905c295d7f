"""Progress as it is shown: in a cell, in a terminal, in a log; and what is made of reports."""

from __future__ import annotations

import contextlib
import io
import threading

import pytest

from llmapi_kit.notebook import display, progress_display
from llmapi_kit.notebook.progress_display import LineScreen, LogScreen, ProgressDisplay, terminal_screen
from llmapi_kit.notebook.progress_state import ProgressState, as_amount, as_html, as_line, as_time
from llmapi_kit.progress import Progress, report
from tests.notebooks.kernels import run_cells

STEP = "downloading a/b"


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def state(clock):
    """Half of a download that has run for four seconds at 100 MB/s, in two files."""
    found = ProgressState("Loading a/b", clock)
    for clock.now in (0.0, 2.0, 4.0):
        found.note(Progress(f"{STEP}: one.safetensors", clock.now * 1e8, 5e8, "B"))
        found.note(Progress(STEP, clock.now * 1e8, 8e8, "B"))
    return found


class Seen:
    """A screen that says when something was drawn on it."""

    def __init__(self):
        self.lines = []
        self.drawn = threading.Event()

    def draw(self, state):
        self.lines.append(as_line(state))
        self.drawn.set()

    end = draw


def test_speed_and_time_left_are_told_beside_what_is_done(state):
    assert as_line(state) == (
        "Loading a/b: downloading a/b ##########----------  50%, 400.0 MB of 800.0 MB, 100.0 MB/s, 4 s left"
    )


def test_a_download_that_stands_still_tells_no_time_left_and_why(state, clock):
    state.note(Progress(f"{STEP}: no byte for 7 s"))
    assert as_line(state).endswith("400.0 MB of 800.0 MB, 4 s, no byte for 7 s")
    assert "no byte for 7 s" in as_html(state)
    clock.now = 5.0
    state.note(Progress(STEP, 5e8, 8e8, "B"))
    assert "no byte" not in as_line(state)


def test_files_have_bars_until_they_are_done(state):
    assert [name for name, _ in state.parts()] == ["one.safetensors"]
    assert as_html(state).count('role="progressbar"') == 2
    state.note(Progress(f"{STEP}: one.safetensors", 5e8, 5e8, "B"))
    assert state.parts() == []


def test_a_new_step_begins_from_nothing(state, clock):
    state.note(Progress("reading weights", 3, 12))
    assert as_line(state) == "Loading a/b: reading weights #####---------------  25%, 3 of 12"


def test_names_of_files_are_text_and_no_markup(state):
    state.note(Progress("downloading <script>: <img src=x>", 1, 2, "B"))
    assert "<script>" not in as_html(state)
    assert "<img" not in as_html(state)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (None, "Ready in 4 s"),
        (KeyboardInterrupt(), "Interrupted after 4 s, while downloading a/b"),
        (OSError(), "Failed after 4 s, while downloading a/b"),
    ],
)
def test_the_end_is_said_with_the_time_it_took(state, error, text):
    state.end(error)
    assert as_line(state) == f"Loading a/b: {text}"
    assert text in as_html(state)


@pytest.mark.parametrize(
    ("value", "unit", "text"), [(1.5e9, "B", "1.50 GB"), (2.5e6, "B", "2.5 MB"), (10, "B", "10 B"), (7, "", "7")]
)
def test_amounts_are_for_people(value, unit, text):
    assert as_amount(value, unit) == text


def test_times_are_for_people():
    assert [as_time(seconds) for seconds in (8.4, 125, 4210)] == ["8 s", "2:05 min", "1:10 h"]


def test_what_is_reported_is_drawn_while_the_work_goes_on_and_at_the_end():
    seen = Seen()
    with ProgressDisplay("Loading a/b", seen, show_after_s=0):
        report(STEP, done=1, total=2, unit="B")
        assert seen.drawn.wait(20)
    assert STEP in seen.lines[0]
    assert "Ready" in seen.lines[-1]


def test_quick_work_shows_nothing():
    seen = Seen()
    with ProgressDisplay("Loading a/b", seen, show_after_s=60):
        report(STEP)
    assert seen.lines == []


def test_a_front_end_that_is_gone_does_not_end_the_work():
    class Gone(Seen):
        def draw(self, state):
            self.drawn.set()
            raise OSError("closed")

    gone = Gone()
    gone.end = lambda state: None
    with ProgressDisplay("", gone, show_after_s=0):
        report(STEP)
        assert gone.drawn.wait(20)


def test_a_terminal_s_line_is_redrawn_and_leaves_nothing_of_a_longer_one(state, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    stream = io.StringIO()
    screen = LineScreen(stream)
    screen.draw(state)
    length = len(stream.getvalue())
    assert length == 60, "the line and what goes back to its begin: it must not wrap"
    state.note(Progress("short"))
    screen.end(state)
    last = stream.getvalue()[length:]
    assert last.startswith("\rLoading a/b: short")
    assert len(last) == length + 1, "padded to the length of the line before, and ended"


def test_a_log_has_a_line_for_each_step_and_one_now_and_then(state, clock):
    stream = io.StringIO()
    screen = LogScreen(stream, clock)
    for clock.now in (4, 5, 6, 30):
        screen.draw(state)
    state.note(Progress("reading weights"))
    screen.draw(state)
    assert [line.split(": ")[1].split(" ")[0] for line in stream.getvalue().splitlines()] == [
        "downloading",
        "downloading",
        "reading",
    ]


CELL = """
from llmapi_kit.notebook.progress_display import CellScreen, ProgressDisplay
from llmapi_kit.progress import report
screen = CellScreen()
with ProgressDisplay("Loading a/b", screen, show_after_s=0):
    report("downloading a/b", done=1, total=2, unit="B")
    while screen.handle is None:
        pass
"""


@pytest.mark.slow
def test_in_a_cell_one_output_changes_and_stays_readable_when_it_is_saved(tmp_path):
    (cell,) = run_cells(tmp_path, CELL).cells
    (output,) = cell.outputs
    assert "Ready in" in output.data["text/html"]
    assert output.data["text/plain"].startswith("Loading a/b: Ready in")


def test_what_another_thread_loads_shows_in_no_cell(monkeypatch):
    shown = []
    monkeypatch.setattr(
        progress_display, "ProgressDisplay", lambda **_: shown.append("shown") or contextlib.nullcontext()
    )
    work = progress_display.NotebookPresenter().load
    thread = threading.Thread(target=work, args=(lambda: None,))
    thread.start()
    thread.join()
    assert shown == []
    assert work(lambda: 5) == 5
    assert shown == ["shown"]


@pytest.mark.parametrize(("value", "is_shown"), [("", True), ("0", True), ("1", False), ("true", False)])
def test_the_hub_s_own_variable_switches_it_off(monkeypatch, value, is_shown):
    used = []
    monkeypatch.setattr(display.presenter, "use", used.append)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", value)
    display.install()
    assert bool(used) is is_shown


def test_what_is_no_terminal_gets_lines_of_its_own():
    assert isinstance(terminal_screen(io.StringIO()), LogScreen)


@pytest.mark.slow
def test_in_a_cell_the_card_takes_the_place_of_the_steps(tmp_path):
    (launch,) = run_cells(tmp_path, "import llmapi_kit as kit\nserver = kit.launch('pocket', port=0)").cells
    (output,) = launch.outputs
    assert "it was running" in output.data["text/html"]
