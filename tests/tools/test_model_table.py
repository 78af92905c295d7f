"""The page of model families is what the families of this transformers give; a sample of them is tried here."""

from __future__ import annotations

import re

import pytest

from tools import model_families, model_table
from tools.model_table import PAGE, as_line, try_family

# Each for a kind: in C, over slots with sinks and with a window, state spaces, ALiBi, chunks, changing factors, refused
SAMPLE = ("qwen2, window", "gpt_oss", "gemma2", "jamba", "bloom", "llama4_text", "phi3, longrope", "reformer", "gemma3")
LEAST_SERVED = 0.9


@pytest.fixture(scope="module")
def lines():
    """The page's table by family."""
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    return {line.split(" | ")[0].removeprefix("| "): line for line in rows}


def test_the_page_has_every_family(lines):
    assert sorted(lines) == model_families.names()


@pytest.mark.slow
def test_most_families_are_served_all_of_them_equal_and_the_others_say_why(lines):
    cells = {name: [cell.strip() for cell in line.strip("|").split("|")] for name, line in lines.items()}
    tried = [row for name, row in cells.items() if not model_families.kind_of(name)]
    served = [outcome for *_, runs, outcome in tried if runs]
    assert set(served) == {"equal"}
    assert len(served) / len(tried) >= LEAST_SERVED
    assert all(
        re.search(r"refused: .*can't be served: \w+ is .{20}", outcome) for *_, runs, outcome in tried if not runs
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_a_family_gives_what_the_page_says(name, lines):
    model_table.quiet()
    assert as_line(try_family(name)) == lines[name]
