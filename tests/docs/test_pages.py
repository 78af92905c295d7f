"""The documentation's code runs: Python from the top of a page to its end, and what asks the server with curl."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
import types

import openai
import pytest
import typer

import llmapi_kit as kit
from llmapi_kit.cli.app import app
from llmapi_kit.server.server import Server

from .pages import PAGES, ROOT, blocks

pytestmark = pytest.mark.slow

# Of each page, the blocks that need what no test has; one more is a decision.
NOT_RUN = {"docs/index.md": 1, "docs/providers.md": 1, "docs/sharing.md": 4}
WITH_ITS_OWN_TESTS = "docs/backends.md"
ADDRESS, KEY = "127.0.0.1:8000", "sk-llmapi-…"
CURL = 'curl() { command curl --silent --show-error --fail-with-body --max-time 60 "$@"; }\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """What the pages mean by 127.0.0.1:8000; the pocket model is loaded once for all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMAPI_KIT_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("LLMAPI_KIT_NATIVE", "false")  # which is compiled at the first load
        yield kit.launch(kit.load("pocket"), port=0, name="of the pages")
        kit.stop_all()


@pytest.fixture
def reader(server, monkeypatch, tmp_path):
    """The environment of somebody who reads on this machine; `launch` takes a free port where a page names none."""
    monkeypatch.setenv("LLMAPI_KIT_HOME", str(server.settings.home))
    monkeypatch.setenv("LLMAPI_KIT_NATIVE", "false")
    monkeypatch.setenv("LLMAPI_KIT_API_KEY", server.api_key)
    monkeypatch.setitem(inspect.unwrap(kit.launch).__kwdefaults__, "port", 0)
    monkeypatch.chdir(tmp_path)
    return server


def for_the_server(code, server):
    return code.replace(ADDRESS, f"127.0.0.1:{server.port}").replace(KEY, server.api_key)


def runnable(page, language):
    return [block for block in blocks(page, language) if block.reason is None]


def pages_with(language, word=""):
    """The pages with a block in a language that has this word in it."""
    pages = [page for page in PAGES if page != WITH_ITS_OWN_TESTS]
    return [page for page in pages if any(word in block.code for block in runnable(page, language))]


@pytest.mark.parametrize("page", pages_with("python"))
def test_python_of_a_page_runs_from_top_to_end(page, reader, monkeypatch):
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    try:
        for block in runnable(page, "python"):
            code = "\n" * (block.line - 1) + for_the_server(block.code, reader)  # so that errors have the page's lines
            exec(compile(code, ROOT / page, "exec"), module.__dict__)
    finally:
        for value in vars(module).values():
            if isinstance(value, openai.OpenAI):
                value.close()
            elif isinstance(value, Server):
                value.stop(0)


@pytest.mark.parametrize("page", pages_with("bash", "curl "))
def test_what_a_page_asks_with_curl_is_answered(page, reader):
    for block in runnable(page, "bash"):
        if "curl " not in block.code:
            continue
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", CURL + for_the_server(block.code, reader)],
            env={**os.environ, "no_proxy": "127.0.0.1"},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert ran.returncode == 0, f"{page}:{block.line}\n{ran.stdout}{ran.stderr}"
        assert '"code":-' not in ran.stdout.replace(" ", ""), ran.stdout


def test_as_many_blocks_are_left_out_as_is_said():
    left_out = {page: sum(b.reason is not None for b in blocks(page, "python")) for page in PAGES}
    assert {page: num for page, num in left_out.items() if num} == NOT_RUN


def commands(word):
    """(page, command) of each line of a shell that begins with a word, comments and variables aside."""
    lines = [
        (page, re.sub(r"^([A-Z_]+=\S+ )+", "", line))
        for page in PAGES
        for block in blocks(page, "bash")
        for line in block.code.splitlines()
    ]
    return [(page, line) for page, line in lines if line.startswith(f"{word} ")]


@pytest.mark.parametrize(("page", "command"), commands("llmapi-kit"))
def test_commands_of_the_kit_are_there_with_their_flags(page, command):
    _, name, *arguments = shlex.split(command, comments=True)
    typer.main.get_command(app).commands[name].make_context(name, arguments)


def test_targets_of_make_are_there():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = {shlex.split(command, comments=True)[1] for _, command in commands("make")}
    assert {target for target in targets if f"make {target} " not in shown} == set()
    assert {"demo", "test", "check"} <= targets
