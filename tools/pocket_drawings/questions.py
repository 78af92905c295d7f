"""Questions about a drawing, each with the one answer that is right."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from .drawing import COLOURS, PLACES, SHAPES, Drawing, Thing

NUMBERS = ("none", "one", "two", "three", "four")
WHAT = (
    "What is in the picture?", "What do you see?", "Describe the picture.", "What is this?", "What does it show?",
    "What is in this picture?", "What is in this image?", "What's in this image?", "Describe the image.",
    "Describe this picture.", "What can you see in the picture?", "What is drawn here?",
)  # fmt: skip
WHICH_WORD = (
    "Which word is written?", "What does it say?", "Read the word.", "What is written?", "What does the picture say?",
    "Which word is this?", "What word is in the picture?",
)  # fmt: skip
HOW_MANY = ("How many {x} are there?", "How many {x} are in the picture?", "How many {x} do you see?", "Count the {x}.")
ITS_COLOUR = ("Which colour is {x}?", "What colour is {x}?", "What color is {x}?", "Tell me the colour of {x}.")
ITS_SHAPE = ("Which shape is {x}?", "What shape is {x}?", "Tell me the shape of {x}.")
WHERE = ("Where is {x}?", "Where is {x} in the picture?", "In which place is {x}?")
AT = ("What is {x}?", "What do you see {x}?", "Which shape is {x}?")
IS_THERE = ("Is there {x}?", "Is there {x} in the picture?", "Do you see {x}?", "Can you see {x}?")


class Question(NamedTuple):
    """A question about a drawing, and its answer.

    Attributes:
        kind: one of `KINDS`.
        text: as a user asks it.
        answer: what the model is to say, exactly.
    """

    kind: str
    text: str
    answer: str


def ask(drawing: Drawing, chance: random.Random, weights: Mapping[str, int] | None = None) -> Question:
    """A question about a drawing, of any kind that fits; of some kinds more often, where weights say so."""
    kinds = [kind for kind in KINDS for _ in range((weights or {}).get(kind, 1))]
    while True:
        question = KINDS[chance.choice(kinds)](drawing, chance)
        if question is not None:
            return question


def place_phrase(place: tuple[int, int]) -> str:
    """Where something is: 'in the middle', 'at the top left'."""
    return f"{'in' if place == (1, 1) else 'at'} the {PLACES[place]}"


def _what(drawing: Drawing, chance: random.Random) -> Question:
    text = chance.choice(WHAT)
    if drawing.word:
        return Question("what", text, f"The word {drawing.word}.")
    counts = Counter((thing.colour, thing.shape) for thing in drawing.things)
    parts = [
        f"{'a' if number == 1 else NUMBERS[number]} {colour} {shape}{'' if number == 1 else 's'}"
        for (colour, shape), number in counts.items()
    ]
    parts = [f"an{part[1:]}" if part.startswith("a orange") else part for part in parts]
    answer = " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
    return Question("what", text, f"{answer[0].upper()}{answer[1:]}.")


def _word(drawing: Drawing, chance: random.Random) -> Question | None:
    return Question("word", chance.choice(WHICH_WORD), f"The word {drawing.word}.") if drawing.word else None


def _how_many(drawing: Drawing, chance: random.Random) -> Question | None:
    if drawing.word:
        return None
    thing = chance.choice(drawing.things)
    colour = chance.choice((thing.colour, thing.colour, chance.choice(list(COLOURS))))
    shape = chance.choice((thing.shape, thing.shape, chance.choice(SHAPES)))
    wanted, alike = chance.choice(
        [
            ("shapes", drawing.things),
            (f"{colour} shapes", [each for each in drawing.things if each.colour == colour]),
            (f"{shape}s", [each for each in drawing.things if each.shape == shape]),
        ]
    )
    return Question("count", chance.choice(HOW_MANY).format(x=wanted), f"{NUMBERS[len(alike)].capitalize()}.")


def _only(drawing: Drawing, **wanted: str) -> Thing | None:
    found = [each for each in drawing.things if all(getattr(each, name) == value for name, value in wanted.items())]
    return found[0] if len(found) == 1 else None


def _colour(drawing: Drawing, chance: random.Random) -> Question | None:
    if drawing.word:
        return None
    thing = chance.choice(drawing.things)
    names = [f"the shape {place_phrase(thing.place)}"]
    if _only(drawing, shape=thing.shape):
        names += [f"the {thing.shape}"] * 2
    if len(drawing.things) == 1:
        names += ["it", "the shape"]
    text = chance.choice(ITS_COLOUR).format(x=chance.choice(names))
    return Question("colour", text, f"{thing.colour.capitalize()}.")


def _shape(drawing: Drawing, chance: random.Random) -> Question | None:
    if drawing.word:
        return None
    thing = chance.choice(drawing.things)
    names = [f"the one {place_phrase(thing.place)}"]
    if _only(drawing, colour=thing.colour):
        names += [f"the {thing.colour} one"] * 2
    if len(drawing.things) == 1:
        names += ["it"]
    return Question("shape", chance.choice(ITS_SHAPE).format(x=chance.choice(names)), f"A {thing.shape}.")


def _where(drawing: Drawing, chance: random.Random) -> Question | None:
    if drawing.word:
        return None
    thing = chance.choice(drawing.things)
    names = []
    if _only(drawing, shape=thing.shape, colour=thing.colour):
        names += [f"the {thing.colour} {thing.shape}"] * 2
    if _only(drawing, shape=thing.shape):
        names += [f"the {thing.shape}"]
    if not names:
        return None
    answer = f"{place_phrase(thing.place).capitalize()}."
    return Question("where", chance.choice(WHERE).format(x=chance.choice(names)), answer)


def _at(drawing: Drawing, chance: random.Random) -> Question | None:
    if drawing.word:
        return None
    place = chance.choice([thing.place for thing in drawing.things] * 2 + list(PLACES))
    thing = next((each for each in drawing.things if each.place == place), None)
    article = "An" if thing and thing.colour == "orange" else "A"
    answer = f"{article} {thing.colour} {thing.shape}." if thing else "Nothing."
    return Question("at", chance.choice(AT).format(x=place_phrase(place)), answer)


def _is_there(drawing: Drawing, chance: random.Random) -> Question | None:
    if drawing.word:
        return None
    thing = chance.choice(drawing.things)
    colour = chance.choice((thing.colour, chance.choice(list(COLOURS))))
    shape = chance.choice((thing.shape, chance.choice(SHAPES)))
    is_there = any((each.colour, each.shape) == (colour, shape) for each in drawing.things)
    name = f"{'an' if colour == 'orange' else 'a'} {colour} {shape}"
    return Question("yes or no", chance.choice(IS_THERE).format(x=name), "Yes." if is_there else "No.")


KINDS: dict[str, Callable[[Drawing, random.Random], Question | None]] = {
    "what": _what,
    "word": _word,
    "count": _how_many,
    "colour": _colour,
    "shape": _shape,
    "where": _where,
    "at": _at,
    "yes or no": _is_there,
}
