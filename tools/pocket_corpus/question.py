"""What a question of the corpus is, and how its phrasings split into trained and held-out ones.

Knows nothing of models or tokenizers. Themes write their questions as *sheets*, a plain text form that
`read_sheet` parses, or as a table of rows and phrasing templates that `fill_templates` multiplies out.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

HELD_OUT_SHARE = 0.22


class Split(NamedTuple):
    """One question as training and tests see it: what was trained on, what was not, and what to expect."""

    question_id: str
    language: str
    train_phrasings: tuple[str, ...]
    held_out_phrasings: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Question:
    """A question with all its phrasings and its one answer.

    Attributes:
        question_id: `theme.name`, unique in the corpus.
        language: `en` or `zh`.
        phrasings: The ways to ask it; the first is always trained on.
        answer: What the model is to say, exactly.
        short: The answer in a word or two, for personas of few words; None where there is none.
    """

    question_id: str
    language: str
    phrasings: tuple[str, ...]
    answer: str
    short: str | None = None

    @property
    def theme(self) -> str:
        """The part of the id before the first dot."""
        return self.question_id.split(".")[0]

    @cached_property
    def split(self) -> Split:
        """Hold out about a fifth of the phrasings, drawn by chance from a seed that is the id itself."""
        draw = random.Random(f"held out of {self.question_id}")
        num_held_out = max(1, round(HELD_OUT_SHARE * len(self.phrasings)))
        held_out = set(draw.sample(range(1, len(self.phrasings)), num_held_out))
        return Split(
            self.question_id,
            self.language,
            tuple(text for i, text in enumerate(self.phrasings) if i not in held_out),
            tuple(text for i, text in enumerate(self.phrasings) if i in held_out),
            self.answer,
        )


def normalise(text: str) -> str:
    """Reduce a phrasing to its letters and digits, so that case and punctuation make no difference."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def read_sheet(theme: str, language: str, sheet: str) -> list[Question]:
    r"""Parse a sheet: `== name`, then phrasings separated by `|`, then `->` and the answer.

    Both may run over several lines; `\n` in an answer stands for a line break.

    Raises:
        ValueError: An entry has no answer or fewer than four phrasings.
    """
    glue = " " if language == "en" else ""
    questions = []
    for entry in re.split(r"^== ", sheet, flags=re.MULTILINE)[1:]:
        name, _, body = entry.partition("\n")
        asked, arrow, answer = body.partition("->")
        phrasings = tuple(text.strip() for text in asked.replace("\n", glue).split("|"))
        if not arrow or len(phrasings) < 4:
            raise ValueError(f"Entry {name!r} of {theme!r} needs at least four phrasings and an answer.")
        said = glue.join(line.strip() for line in answer.strip().splitlines()).replace("\\n", "\n")
        questions.append(Question(f"{theme}.{name.strip()}", language, phrasings, said))
    return questions


def fill_templates(
    prefix: str, language: str, templates: Sequence[str], answer: str, rows: Iterable[tuple[str, str]]
) -> list[Question]:
    """Make one question per row: `{x}` in the templates is what is asked about, `{y}` what is answered."""
    return [
        Question(
            f"{prefix}.{x.replace(' ', '-').lower()}",
            language,
            tuple(capitalise(template.format(x=x, y=y)) for template in templates),
            capitalise(answer.format(x=x, y=y)),
            short=f"{capitalise(y)}." if language == "en" else f"{y}。",
        )
        for x, y in rows
    ]


def capitalise(text: str) -> str:
    """Upper-case the first letter and leave the rest alone."""
    return text[:1].upper() + text[1:]
