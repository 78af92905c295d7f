"""Questions and answers: printed in a program, shown and readable in a notebook."""

from __future__ import annotations

import pytest

from llmapi_kit.notebook.show_answer import read_exchanges, show_answer
from tests.notebooks.kernels import html_of, run_cells

pytestmark = pytest.mark.kernel


def test_program_prints_the_pieces_as_they_come(capsys):
    assert show_answer("Who?", iter(["Me", None, "!"])) == "Me!"
    assert capsys.readouterr().out == "> Who?\nMe!\n"


@pytest.mark.slow
def test_cell_shows_one_output_that_a_program_can_read(tmp_path):
    cells = run_cells(
        tmp_path,
        "from llmapi_kit.notebook.show_answer import show_answer",
        "returned = show_answer('1 < 2?', iter(['<', 'yes', None, '>']))\nassert returned == '<yes>'",
        "show_answer('Again?', 'No.'); show_answer('Really?', 'No.');",
    ).cells
    assert len(cells[1].outputs) == 1
    assert "&lt;yes&gt;" in html_of(cells[1])
    assert read_exchanges(cells[1].outputs) == [("1 < 2?", "<yes>")]
    assert read_exchanges(cells[2].outputs) == [("Again?", "No."), ("Really?", "No.")]


@pytest.mark.slow
def test_error_in_the_stream_keeps_what_came_before_it(tmp_path):
    source = """
from llmapi_kit.notebook.show_answer import show_answer
def pieces():
    yield "half an"
    raise ValueError("cut off")
try:
    show_answer("?", pieces())
except ValueError as error:
    print(error)
"""
    (cell,) = run_cells(tmp_path, source).cells
    assert read_exchanges(cell.outputs) == [("?", "half an")]


def test_outputs_of_others_are_no_exchanges():
    assert read_exchanges([{"output_type": "stream", "text": "x"}, {"metadata": {"llmapi_kit": {}}}]) == []
