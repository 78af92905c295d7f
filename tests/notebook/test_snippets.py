"""Snippets are pasted and run: in a shell, in Python; none holds a key."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import llmapi_kit as kit
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.notebook import snippets


@pytest.fixture(params=["home", "home with 'quotes' and $dollars"])
def server(request, monkeypatch, tmp_path):
    monkeypatch.setenv("LLMAPI_KIT_HOME", str(tmp_path / request.param))
    server = kit.launch(MockEngine("It's fine."), port=0)
    yield server
    kit.stop_all()


def run(command, **variables):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **variables})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def run_python(warm_python):
    def run(snippet, **variables):
        done = warm_python.run(snippet, **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_curl_snippet_answers_with_the_key_from_its_file(server):
    snippet = snippets.curl_snippet(server.url, server.key_file, "mock")
    assert server.api_key not in snippet
    assert "It's fine." in run(["sh", "-c", snippet])


def test_curl_snippet_answers_with_the_key_from_a_variable(server):
    snippet = snippets.curl_snippet(server.url, None, "mock", key_variable=snippets.KEY_VARIABLE)
    assert "It's fine." in run(["sh", "-c", snippet], **{snippets.KEY_VARIABLE: server.api_key})


@pytest.mark.slow
def test_python_snippet_finds_the_key_by_itself(server, run_python):
    snippet = snippets.python_snippet(server.url, "mock")
    assert server.api_key not in snippet
    assert run_python(snippet) == "It's fine."


@pytest.mark.slow
def test_openai_snippet_takes_the_key_from_the_environment(server, run_python):
    snippet = snippets.openai_snippet(server.url, "mock")
    assert run_python(snippet, **{snippets.KEY_VARIABLE: server.api_key}) == "It's fine."


@pytest.mark.slow
def test_openai_snippet_of_a_server_without_a_key_needs_no_variable(run_python):
    server = kit.launch(MockEngine("open"), port=0, api_key=False)
    try:
        assert run_python(snippets.openai_snippet(server.url, "mock", has_key=False)) == "open"
        assert "open" in run(["sh", "-c", snippets.curl_snippet(server.url, None, "mock")])
    finally:
        kit.stop_all()


def test_curl_snippet_survives_any_model_name():
    snippet = snippets.curl_snippet("http://127.0.0.1:1", None, 'it\'s "$(date)"')
    shown = run(["sh", "-c", snippet.replace("curl", "printf '%s\\n'", 1)])
    assert '{"model": "it\'s \\"$(date)\\""' in shown


def test_key_file_below_the_home_folder_hides_the_name_of_the_user():
    snippet = snippets.curl_snippet("http://127.0.0.1:1", str(Path.home() / "a b" / "x.key"), "m")
    assert str(Path.home()) not in snippet
    assert "$(cat \"$HOME\"/'a b/x.key')" in snippet
