"""The page on back ends runs: every block of code, in order, and its engine keeps the contract."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
import tomllib

import llmapi_kit as kit
from llmapi_kit.testing import EngineContract

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "backends.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The namespace after all blocks of Python, run from top to bottom."""
    module = types.ModuleType("backends_page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMAPI_KIT_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("LLMAPI_KIT_NATIVE", "false")  # which is compiled at the first load
        patch.setitem(sys.modules, "backends_page", module)
        for kind, code in BLOCKS:
            if kind == "python":
                exec(compile(code, "docs/backends.md", "exec"), module.__dict__)
        yield module
        kit.stop_all()


def shouting():
    """The page's engine, without running what comes after it."""
    namespace = {}
    exec(next(code for kind, code in BLOCKS if "class Shouting" in code), namespace)
    return namespace["Shouting"]()


class TestShouting(EngineContract):
    """As the page says."""

    cannot = frozenset(("n", "stop", "token_ids", "tokenize"))

    def make_engine(self):
        return shouting()

    def long_request(self, engine):
        return self.request(engine, "word " * 200)


@pytest.mark.slow
def test_every_block_runs(ran):
    assert ran.TestShouting.cannot == TestShouting.cannot
    assert ran.make_engine("x").info.id == "x"
    with pytest.raises(kit.LlmApiKitError, match="colour"):
        ran.make_engine("x", colour="red")


def test_the_entry_point_is_that_of_the_code():
    tables = [tomllib.loads(code) for kind, code in BLOCKS if kind == "toml"]
    assert tables == [{"project": {"entry-points": {"llmapi_kit.engines": {"mine": "my_backend:make_engine"}}}}]


def test_the_page_names_what_there_is():
    assert {kind for kind, _ in BLOCKS} == {"python", "toml"}
    for name in re.findall(r"`(llmapi_kit\.[\w.]+)`", PAGE):
        parts = name.split(".")
        if name == "llmapi_kit.engines":  # of the entry points
            continue
        module = __import__(".".join(parts[:-1]), fromlist=[parts[-1]])
        assert hasattr(module, parts[-1]) or __import__(name, fromlist=["x"]), name
    for link in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
