"""A pytest plugin for ``tools/gpu_check.py``: prints a line of JSON at the end; a skipped test fails the run.

Passed as ``-p tests.gpu.report``. What tests give to `record_property` is in it.
"""

from __future__ import annotations

import json
from collections import Counter

import pytest

_outcomes: Counter[str] = Counter()
_figures: dict[str, object] = {}


def pytest_runtest_logreport(report):
    """Count a test once: when it ran, or when it did not get so far."""
    if report.when == "call" or not report.passed:
        _outcomes[report.outcome] += 1
    if report.when == "call":
        name = report.nodeid.rpartition("::")[2]
        _figures.update({f"{name}: {key}": value for key, value in report.user_properties})


def pytest_sessionfinish(session):
    """A test that was skipped has checked nothing."""
    if _outcomes["skipped"]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    """The line."""
    terminalreporter.write_line(json.dumps({**_outcomes, **_figures}))
