"""The questions by which pocket-vision is measured: on drawings that training never sees."""

from __future__ import annotations

import random
from typing import NamedTuple

from .drawing import Drawing, draw
from .questions import KINDS
from .talk import talk

NO_PICTURE = "no picture"


class Case(NamedTuple):
    """A question of the examination.

    Attributes:
        kind: one of `KINDS`, or `NO_PICTURE`.
        drawing: what is asked about; None where no picture is shown.
        question: as a user asks it.
        answer: what the model is to say, exactly.
    """

    kind: str
    drawing: Drawing | None
    question: str
    answer: str


def cases(count: int, seed: str = "held out") -> list[Case]:
    """`count` questions of each kind, and as many without a picture."""
    chance = random.Random(seed)
    found = []
    for kind in KINDS:
        wanted = len(found) + count
        while len(found) < wanted:
            drawing = draw(chance)
            question = KINDS[kind](drawing, chance)
            if question is not None:
                found.append(Case(kind, drawing, question.text, question.answer))
    return found + [Case(NO_PICTURE, None, *talk(chance)) for _ in range(count)]
