"""What hangs is told apart by what it still answers. The process is a stand-in, and time is counted in questions."""

from __future__ import annotations

import threading

import pytest

from llmapi_kit.engines.process.watchdog import Watchdog
from llmapi_kit.engines.process.wire import Status
from llmapi_kit.types import EngineStats, Readiness

DEADLINE_S = 60


class Process:
    """Answers each question at once with the next of some steps, and not at all after the last one.

    Attributes:
        why: it was ended.
    """

    def __init__(self, *steps):
        self._steps = list(steps)
        self._is_watched = threading.Event()
        self.has_ended = self
        self.is_over = threading.Event()
        self.why = ""
        self.watchdog = Watchdog(self, 10)
        self._is_watched.set()

    def wait(self, interval_s):
        """In place of the time that passes."""
        self._is_watched.wait(DEADLINE_S)
        return False

    def send(self, question):
        if self._steps:
            self.watchdog.heard(Status(0, Readiness(True), EngineStats(), self._steps.pop(0)))

    def kill(self, why):
        self.why = why
        self.is_over.set()


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ([], "it had not answered"),
        ([None] * 100, "it had not answered"),  # it loads for long
        (list(range(100)), "it had not answered"),
        ([7.0] * 100, "no step had ended"),
    ],
)
def test_why_a_process_is_ended(steps, why):
    process = Process(*steps)
    assert process.is_over.wait(DEADLINE_S)
    assert process.why == f"{why} for 10 s, the limit that step_timeout_s sets"
    assert (len(process._steps) > 80) == (why == "no step had ended")


def test_without_a_limit_nobody_watches():
    before = set(threading.enumerate())
    Watchdog(None, 0)
    assert {thread.name for thread in set(threading.enumerate()) - before} == set()
