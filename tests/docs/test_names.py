"""What the documentation names is there: files by path, modules and classes by dotted name."""

from __future__ import annotations

import importlib
import re

import pytest

from .pages import PAGES, ROOT

PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|sh|md|ipynb|c|toml|txt|yml))`")
DOTTED = re.compile(r"(?:`|^::: )(llmapi_kit(?:\.\w+)+)(?:`|$)", re.MULTILINE)


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def named(pattern):
    return [(page, name) for page in PAGES for name in sorted(set(pattern.findall(text_of(page))))]


@pytest.mark.parametrize(("page", "path"), named(PATH))
def test_files_that_a_page_names_are_there(page, path):
    """From the top of the repository or of the package."""
    assert (ROOT / path).is_file() or (ROOT / "llmapi_kit" / path).is_file()


@pytest.mark.parametrize(("page", "name"), named(DOTTED))
def test_modules_and_classes_that_a_page_names_are_there(page, name):
    module, _, attribute = name.rpartition(".")
    if not hasattr(importlib.import_module(module), attribute):
        importlib.import_module(name)


def test_some_are_looked_at():
    assert len(named(PATH)) > 20
    assert len(named(DOTTED)) > 15
