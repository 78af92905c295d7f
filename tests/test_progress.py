from __future__ import annotations

import contextvars
import threading

import pytest

from llmapi_kit.progress import Progress, current, report, reporting


def test_a_report_that_nobody_wants_does_nothing():
    report("reading weights", done=1, total=2)

    assert current() is None


def test_the_inner_listener_hears_and_the_outer_one_is_back_after_it():
    heard: list[tuple[str, str]] = []
    with reporting(lambda progress: heard.append(("outer", progress.step))):
        with reporting(lambda progress: heard.append(("inner", progress.step))):
            report("one")
        report("two")

    assert heard == [("inner", "one"), ("outer", "two")]


def test_the_last_report_can_be_asked_for_after_the_work():
    with reporting(lambda progress: None) as reporter:
        assert reporter.last is None
        report("download", done=5, total=20, unit="B")

    assert reporter.last == Progress("download", 5, 20, "B")


@pytest.mark.parametrize(
    ("done", "total", "fraction"), [(None, None, None), (1, None, None), (1, 0, None), (1, 4, 0.25), (9, 4, 1.0)]
)
def test_a_fraction_is_told_only_where_it_is_known(done, total, fraction):
    assert Progress("download", done, total).fraction == fraction


def test_threads_report_through_the_reporter_or_in_a_copied_context():
    heard: list[str] = []
    with reporting(lambda progress: heard.append(progress.step)) as reporter:
        threads = [
            threading.Thread(target=reporter.report, args=("handed over",)),
            threading.Thread(target=contextvars.copy_context().run, args=(report, "copied")),
            threading.Thread(target=report, args=("lost",)),
        ]
        for thread in threads:
            thread.start()
            thread.join()

    assert heard == ["handed over", "copied"]


def test_work_goes_on_when_its_progress_cannot_be_shown():
    def fail(progress: Progress) -> None:
        raise OSError("the terminal is gone")

    with reporting(fail) as reporter:
        report("reading weights")

    assert reporter.last == Progress("reading weights")
