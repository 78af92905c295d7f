"""The contract suite bites: each engine that breaks a promise fails the test of that promise, and a whole one none."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from .broken_engines import MUST_FAIL

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WHOLE = ("TestNothingBroken", "TestDeclaredAndRefused")


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
    """Names of the tests that failed, by class; the suite runs over all engines in one process of its own."""
    report = tmp_path_factory.mktemp("contract") / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    command += ["-W", "ignore", str(Path(__file__).parent / "broken_engines.py")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    failed = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("classname").rpartition(".")[2]
        is_failure = case.find("failure") is not None or case.find("error") is not None
        failed.setdefault(name, set()).update({case.get("name")} if is_failure else ())
        assert case.find("skipped") is None
    return failed


@pytest.mark.parametrize("name", sorted(MUST_FAIL))
def test_a_broken_promise_is_seen(failures, name):
    assert set(MUST_FAIL[name]) <= failures[name]


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_engine_passes(failures, name):
    assert failures[name] == set()


def test_every_test_of_the_contract_sees_something(failures):
    """A test that no broken engine fails may be one that can't fail."""
    from llmapi_kit.testing import EngineContract

    tests = {name for name in dir(EngineContract) if name.startswith("test_")}
    assert tests - set().union(*MUST_FAIL.values()) == set()
