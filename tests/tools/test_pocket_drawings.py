"""What pocket-vision learns from: answers fit their drawings, and the examination is always the same."""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from pocket_drawings import GRID, KINDS, SIZE, draw
from pocket_drawings.drawing import COLOURS
from pocket_drawings.examination import NO_PICTURE, cases

EXAM = cases(15, "tests")


def of_kind(*kinds):
    return [case for case in EXAM if case.kind in kinds]


def names_in(case):
    """What is in a drawing, by colour and shape."""
    return [f"{each.colour} {each.shape}" for each in case.drawing.things]


def test_every_kind_of_question_is_asked_as_often():
    assert Counter(case.kind for case in EXAM) == dict.fromkeys([*KINDS, NO_PICTURE], 15)


def test_the_examination_is_always_the_same():
    again = cases(15, "tests")
    assert [case[2:] for case in again] == [case[2:] for case in EXAM]
    assert all(a.drawing is None or a.drawing.image == b.drawing.image for a, b in zip(again, EXAM, strict=True))


@pytest.mark.parametrize("case", of_kind("what"), ids=lambda case: case.answer)
def test_a_description_names_all_that_is_there(case):
    if case.drawing.word:
        assert case.answer == f"The word {case.drawing.word}."
    else:
        named = re.findall(r"(\w+ \w+?)s?(?=,| and|\.)", case.answer)
        assert set(named) == set(names_in(case))


@pytest.mark.parametrize("case", of_kind("yes or no"), ids=lambda case: f"{case.question} {case.answer}")
def test_yes_is_said_of_what_is_there(case):
    asked = re.search(r"\ban? (\w+ \w+)", case.question)[1]
    assert case.answer == ("Yes." if asked in names_in(case) else "No.")


@pytest.mark.parametrize("seed", range(12))
def test_a_thing_is_in_its_place_in_its_colour(seed):
    drawing = draw(random.Random(seed), word_share=0)
    pixels = np.asarray(drawing.image.resize((SIZE, SIZE)), dtype=int)
    for thing in drawing.things:
        rows, columns = (slice(index * SIZE // GRID, (index + 1) * SIZE // GRID) for index in thing.place)
        distance = np.abs(pixels[rows, columns] - COLOURS[thing.colour]).max(-1)
        assert (distance < 60).mean() > 0.05, thing
