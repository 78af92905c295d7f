"""Questions and answers: printed in a program, shown as Markdown and readable in a notebook."""

from __future__ import annotations

import pytest

import llmapi_kit as kit
from llmapi_kit.notebook.show import _drawing, read_exchanges
from tests.notebooks.kernels import html_of, run_cells

pytestmark = pytest.mark.kernel

MESSAGES = [{"role": "user", "content": "to be or not"}]


@pytest.fixture
def client():
    with kit.launch("mock", port=0).client() as client:
        yield client
    kit.stop_all()


def test_program_prints_the_pieces_as_they_come(capsys):
    assert kit.show(iter(["Me", None, "!"]), "Who?") == "Me!"
    assert capsys.readouterr().out == "> Who?\nMe!\n"


@pytest.mark.parametrize("stream", [True, False])
def test_what_the_openai_client_gives_is_shown(client, capsys, stream):
    answer = client.chat.completions.create(model="mock", messages=MESSAGES, stream=stream)
    assert kit.show(answer) == "to be or not"
    text = client.completions.create(model="mock", prompt="to be", stream=stream)
    assert kit.show(text) == "to be"
    assert capsys.readouterr().out == "to be or not\nto be\n"


@pytest.mark.slow
def test_cell_shows_one_output_that_a_program_can_read(tmp_path):
    cells = run_cells(
        tmp_path,
        "import llmapi_kit as kit",
        "returned = kit.show(iter(['<', 'yes', None, '>']), '1 < 2?')\nassert returned == '<yes>'",
        "kit.show('No.', 'Again?')\nkit.show('No.', 'Really?')",
    ).cells
    assert len(cells[1].outputs) == 1
    assert "&lt;yes&gt;" in html_of(cells[1])
    assert read_exchanges(cells[1].outputs) == [("1 < 2?", "<yes>")]
    assert read_exchanges(cells[2].outputs) == [("Again?", "No."), ("Really?", "No.")]
    assert len(cells[2].outputs) == 2, "the cell's last value was shown once more"


@pytest.mark.slow
def test_error_in_the_stream_keeps_what_came_before_it(tmp_path):
    source = """
import llmapi_kit as kit
def pieces():
    yield "half an"
    raise ValueError("cut off")
try:
    kit.show(pieces(), "?")
except ValueError as error:
    print(error)
"""
    (cell,) = run_cells(tmp_path, source).cells
    assert read_exchanges(cell.outputs) == [("?", "half an")]


def test_outputs_of_others_are_no_exchanges():
    assert read_exchanges([{"output_type": "stream", "text": "x"}, {"metadata": {"llmapi_kit": {}}}]) == []


def test_an_answer_is_rendered_as_markdown():
    html = _drawing("", "**bold**\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nx < 1\n```")["text/html"]
    for mark in ("<strong>bold</strong>", "<table>", "x &lt; 1"):
        assert mark in html


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[click](javascript:alert(1))",
        "[click](JaVaScRiPt:alert(1))",
        "[click](data:text/html,<script>)",
        "![pixel](https://elsewhere.example/who-reads.png)",
        "![x](https://e.example/a.png 'onload=1')",
        "</div></div><iframe src=//e.example>",
        "`<b>`",
    ],
)
def test_what_a_model_writes_brings_no_markup_and_fetches_nothing(hostile):
    html = _drawing(hostile, hostile)["text/html"].lower()
    for mark in ("<script", "<img", "<iframe", 'href="javascript', 'href="data', "<b>"):
        assert mark not in html
    assert html.count("<div") == html.count("</div>") == 2
