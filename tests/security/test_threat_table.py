"""The table in docs/security.md: each threat names tests that exist, and each module here stands in it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "security.md"
ROW = re.compile(r"^\| (?P<threat>[^|]+) \| (?P<expected>[^|]+) \| (?P<tests>[^|]*`tests/[^|]*) \|$", re.MULTILINE)
NAMED = re.compile(r"`tests/(?P<module>[a-z_/]+/test_[a-z_0-9]+\.py)(?:::(?P<test>test_\w+))?`")
THREATS = {
    "Exposed without a key",
    "A path that leads past the key",
    "Keys that are not valid",
    "Keys that leak",
    "DNS rebinding, foreign websites",
    "Addresses in requests (SSRF)",
    "Image bombs",
    "Bodies and JSON",
    "Grammars, schemas and patterns",
    "Chat templates",
    "Files named over HTTP",
    "Malformed weights",
    "Slow or stalled clients",
    "Clients that leave",
    "A dead or hung engine",
    "A poison request",
    "Tenants that mix",
    "Timing of the prefix cache",
    "Interrupts, re-runs, restarts",
    "Killed in the middle of a write",
    "Revocation",
}
ROWS = {row["threat"].strip(): row for row in ROW.finditer(PAGE.read_text(encoding="utf-8"))}


def test_every_threat_has_its_row():
    assert set(ROWS) == THREATS


@pytest.mark.parametrize("threat", sorted(THREATS))
def test_the_tests_that_a_row_names_are_there(threat):
    named = [(found["module"], found["test"]) for found in NAMED.finditer(ROWS[threat]["tests"])]
    assert named
    for module, test in named:
        tree = ast.parse((TESTS / module).read_text(encoding="utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert test in names if test else any(name.startswith("test_") for name in names), f"{module}::{test}"


def test_every_module_of_this_folder_stands_in_the_page():
    text = PAGE.read_text(encoding="utf-8")
    modules = {path.name for path in Path(__file__).parent.glob("test_*.py")} - {Path(__file__).name}
    assert {module for module in modules if f"`tests/security/{module}" not in text} == set()
