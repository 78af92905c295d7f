"""`%%chat` and `%llmapi`, as cells use them."""

from __future__ import annotations

import builtins

import pytest
from IPython.core.interactiveshell import InteractiveShell

import llmapi_kit as kit
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ConfigError
from llmapi_kit.notebook import magics
from llmapi_kit.notebook.magics import fill_in
from tests.notebooks.kernels import html_of, run_cells, text_of

pytestmark = pytest.mark.slow


@pytest.fixture
def cell(capsys, monkeypatch):
    """Run a cell with the magics loaded; what it shows."""
    monkeypatch.delattr(builtins, "_", raising=False)  # a doctest leaves one, and IPython sets no _ of its own then
    shell = InteractiveShell.instance()
    shell.reset()  # other tests in this process share it, and a _ of their own would stay
    shell.colors = "nocolor"
    shell.extension_manager.reload_extension("llmapi_kit")

    def run(code):
        shell.run_cell(code, store_history=True)
        return capsys.readouterr().out

    yield run
    kit.stop_all()


def test_chat_asks_the_server_and_the_answer_is_in_the_underscore(cell):
    kit.launch(["mock", MockEngine("I am second", name="second")], port=0)
    assert cell("%%chat\nto be or not") == "to be or not\n"
    assert cell("print(_.upper())") == "TO BE OR NOT\n"
    assert cell("%%chat -m second -s 'Be brief.' --temperature 0 --max-tokens 5\nWho?") == "I am second\n"


def test_chat_without_a_server_asks_the_model(cell):
    assert cell("%%chat -m mock\nhello {1 + 1}") == "hello 2\n"


@pytest.mark.parametrize("name", ["llm", "ai"])
def test_what_other_tools_call_it_is_understood(cell, name):
    assert cell(f"%%{name} -m mock\nhello") == "hello\n"


def test_a_name_that_is_taken_stays_as_it_was(cell):
    shell = InteractiveShell.instance()
    mine = shell.magics_manager.magics["cell"]["ai"] = lambda line, cell: print("mine")
    magics.install(shell)
    assert shell.magics_manager.magics["cell"]["ai"] is mine
    del shell.magics_manager.magics["cell"]["ai"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("%%chat --temprature 1\nhello", "unrecognized arguments: --temprature"),
        ("%%chat -t hot\nhello", "invalid float value"),
        ("%%chat -s 'open\nhello", "No closing quotation"),
        ("%%chat -m mock\n \n", "asks nothing"),
        ("%%chat -m mock\n{no_such_name}", "NameError"),
        ("%llmapi stpo", "Did you mean 'stop'?"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(cell, code, words):
    shown = cell(code)
    assert words in shown
    assert "ConfigError" in shown
    assert len(shown.strip().splitlines()) <= 8


def test_help_is_printed(cell):
    assert "--temperature" in cell("%%chat -h\n.")


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{name}!", "Ada!"),
        ("{len(name) * 2}", "6"),
        ('{"a": 1}', '{"a": 1}'),
        ("{}", "{}"),
        ("{{name}}", "{name}"),
        ("int main() { return 0; }", "int main() { return 0; }"),
        ("{name!r}", "{name!r}"),
    ],
)
def test_expressions_are_filled_in_and_other_braces_stay(text, filled):
    assert fill_in(text, {"name": "Ada"}) == filled


def test_an_expression_that_fails_says_which():
    with pytest.raises(ConfigError, match=r"\{1 / 0\} can't be filled in: ZeroDivisionError"):
        fill_in("{1 / 0}", {})


def test_llmapi_shows_stops_and_looks_around(cell):
    assert "No server of llmapi_kit runs" in cell("%llmapi")
    server = kit.launch("mock", port=0)
    assert server.url in cell("%llmapi status")
    cell("%llmapi stop")
    assert not server.is_running
    assert "Python: " in cell("%llmapi doctor")


def test_a_notebook_shows_the_answer_under_the_cell(tmp_path):
    cells = run_cells(
        tmp_path, "%load_ext llmapi_kit", "%%chat -m mock\n**bold** and <b>not</b>", "print(_)", "%llmapi status"
    ).cells
    assert "<strong>bold</strong> and &lt;b&gt;not" in html_of(cells[1])
    assert len(cells[1].outputs) == 1
    assert text_of(cells[2]) == "**bold** and <b>not</b>\n"
