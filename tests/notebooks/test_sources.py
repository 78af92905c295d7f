"""The notebooks as files: stripped, described, short-celled, and free of paths and keys."""

from __future__ import annotations

import json
import re

import nbformat
import pytest

from .kernels import NOTEBOOKS, inject_parameters

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
NAMES = [
    "01_setup",
    "02_load_model",
    "03_launch_server",
    "04_test_client",
    "05_tools_and_structured_output",
    "06_many_backends",
    "07_chat",
    "08_pictures",
    "colab",
]
ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:home|root|Users|work|tmp|content|kaggle)/|[A-Z]:\\")
KEY = re.compile(r"sk-[\w-]{16,}")


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=nbformat.NO_CONVERT)


def test_the_sequence_is_complete():
    assert [path.stem for path in PATHS] == NAMES


def test_notebook_is_valid_and_stripped(notebook):
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert "widgets" not in notebook.metadata
    assert notebook.metadata.kernelspec.name == "python3"
    assert "version" not in notebook.metadata.language_info


def test_first_cell_says_what_it_does_on_what_and_for_how_long(notebook):
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert "**Hardware:**" in first.source
    assert "**Time:**" in first.source


def test_one_cell_holds_the_parameters(notebook):
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    for line in tagged[0].source.splitlines():
        assert re.match(r"[A-Z_]+ = ", line), line


def test_cells_are_short_and_have_prose_between_them(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    assert len(prose) >= len(code) * 0.7
    for cell in code:
        assert len(cell.source.splitlines()) <= 15, cell.source


def test_cells_say_kit_only(notebook):
    """What cells need has a public name; what they imported from the inside broke when it moved."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    inside = set(re.findall(r"from (llmapi_kit[\w.]*) import", code))
    assert inside <= {"llmapi_kit.client", "llmapi_kit.loading.loader"}


def test_cell_ids_are_names(notebook):
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z][a-z-]*", each) for each in ids)


def test_no_absolute_path_and_no_key(notebook):
    text = "\n".join([*(cell.source for cell in notebook.cells), str(notebook.metadata)])
    assert not ABSOLUTE.search(text), ABSOLUTE.search(text)
    assert not KEY.search(text)


def test_notebooks_that_are_mentioned_exist(notebook):
    for name in re.findall(r"\b(\d\d_\w+)\b(?:\.ipynb)?", json.dumps(notebook)):
        assert name in NAMES


def test_injected_parameters_follow_the_tagged_cell(notebook):
    place = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    name = notebook.cells[place].source.split(" = ")[0]
    inject_parameters(notebook, {name: "x"})
    assert notebook.cells[place + 1].source == f"{name} = 'x'"


def test_a_parameter_nobody_knows_is_refused(notebook):
    with pytest.raises(ValueError, match="no parameter SPELLED_WRONG"):
        inject_parameters(notebook, {"SPELLED_WRONG": 1})
