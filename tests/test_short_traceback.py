"""Errors of the kit in a notebook: the message, the line of the cell, and the traceback when it is asked for."""

from __future__ import annotations

import json

import openai
import pytest
from IPython.core.interactiveshell import InteractiveShell

import llmapi_kit as kit
from llmapi_kit.client.openai_client import ServerGoneError
from llmapi_kit.engines.mock import MockEngine

MAX_LINES = 8


@pytest.fixture
def cell(capsys):
    """Run a cell in a shell; what it shows."""
    shell = InteractiveShell.instance()
    shell.colors = "nocolor"

    def run(code):
        shell.run_cell(code, store_history=True)
        return capsys.readouterr().out

    yield run
    kit.stop_all()


def test_an_error_of_the_kit_is_its_message_and_tb_shows_all(cell):
    shown = cell("import llmapi_kit as kit\nkit.load('poket')")
    assert "Did you mean 'pocket'?" in shown
    assert "line 2: kit.load('poket')" in shown
    assert shown.rstrip().endswith("%tb in a new cell shows the whole traceback.")
    assert len(shown.strip().splitlines()) <= MAX_LINES
    whole = cell("%tb")
    assert len(whole.splitlines()) > 20
    assert "parse_spec" in whole


@pytest.mark.slow
def test_an_error_that_is_raised_again_is_short_again(cell):
    cell("from llmapi_kit.errors import ConfigError\nerror = ConfigError('wrong')")
    for _ in range(2):
        assert len(cell("raise error").strip().splitlines()) <= MAX_LINES


def test_an_error_of_somebody_else_is_left_alone(cell):
    assert "Traceback" in cell("1/0")


@pytest.mark.slow
def test_a_client_of_a_server_that_is_gone_says_so_in_a_few_lines(cell):
    """It was 266 lines that ended in "Connection error."."""
    cell("import llmapi_kit as kit\nserver = kit.launch('mock', port=0, name='gone')")
    cell("client = server.client(max_retries=0)")
    cell("server.stop()")
    shown = cell("client.models.list()")
    assert "it was stopped, or its kernel has ended. Launch it again" in shown
    assert len(shown.strip().splitlines()) <= MAX_LINES


@pytest.mark.slow
def test_a_request_that_is_refused_is_shown_in_short(cell):
    """A wrong model was 95 lines."""
    cell("import llmapi_kit as kit\nclient = kit.launch('mock', port=0, name='short').client()")
    shown = cell("client.chat.completions.create(model='gpt-17', messages=[{'role': 'user', 'content': 'x'}])")
    assert "'gpt-17' is not served here" in shown
    assert len(shown.strip().splitlines()) <= MAX_LINES


def test_a_server_that_is_gone_is_a_connection_error_and_one_of_ours():
    server = kit.launch(MockEngine(), port=0)
    with server.client(max_retries=0) as client, client.with_options(timeout=5) as other:
        server.stop()
        for each in (client, other):
            with pytest.raises(openai.APIConnectionError) as caught:
                each.models.list()
            assert isinstance(caught.value, ServerGoneError)
            assert isinstance(caught.value, kit.LlmApiKitError)
            assert server.url in str(caught.value)
    kit.stop_all()


def test_the_asynchronous_client_says_the_same():
    server = kit.launch(MockEngine(), port=0)

    async def ask():
        async with server.async_client(max_retries=0) as client:
            server.stop()
            await client.models.list()

    with pytest.raises(ServerGoneError, match="Launch it again"):
        kit.run(ask())
    kit.stop_all()


def test_clients_are_official_ones():
    server = kit.launch(MockEngine(), port=0)
    with server.client() as client:
        assert isinstance(client, openai.OpenAI)
        answer = client.chat.completions.with_raw_response.create(
            model="mock", messages=[{"role": "user", "content": "to be"}]
        )
        assert json.loads(answer.text)["choices"][0]["message"]["content"] == "to be"
    kit.stop_all()
