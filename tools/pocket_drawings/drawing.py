"""Drawings: one to four shapes of a colour at places of a grid of three by three, or a short word.

No two drawings look alike: places, sizes, tints, backgrounds, resolution and noise vary.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 48
GRID = 3
CELL = SIZE // GRID
COLOURS = {
    "red": (225, 25, 25),
    "green": (20, 145, 40),
    "blue": (25, 45, 230),
    "yellow": (245, 225, 20),
    "purple": (135, 25, 145),
    "orange": (255, 150, 10),
    "black": (15, 15, 15),
}
SHAPES = ("circle", "square", "triangle", "star")
PLACES = {
    (0, 0): "top left",
    (0, 1): "top",
    (0, 2): "top right",
    (1, 0): "left",
    (1, 1): "middle",
    (1, 2): "right",
    (2, 0): "bottom left",
    (2, 1): "bottom",
    (2, 2): "bottom right",
}
WORDS = ("cat", "dog", "sun", "cow", "tea", "book", "tree", "yes", "no", "hello", "go", "stop")
SCALES = (1, 1, 2, 3, 5)
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Thing:
    """A shape in a drawing.

    Attributes:
        shape: one of `SHAPES`.
        colour: one of `COLOURS`.
        place: one of `PLACES`, its row and column: where its centre is.
    """

    shape: str
    colour: str
    place: tuple[int, int]


@dataclass(frozen=True)
class Drawing:
    """What is in a picture, and the picture.

    Attributes:
        things: shapes in reading order; none where there is a word.
        word: that is written; empty where there are shapes.
        word_box: what the word covers, in shares of the picture; zeros where there are shapes.
        image: the picture, a square of `SIZE` pixels or of a multiple.
    """

    things: tuple[Thing, ...]
    word: str
    word_box: Box
    image: Image.Image


def draw(chance: random.Random, word_share: float = 0.2) -> Drawing:
    """A drawing by chance; a share of them has a word."""
    scale = chance.choice(SCALES)
    paper = tuple(chance.randint(225, 255) for _ in range(3)) if chance.random() < 0.5 else (255, 255, 255)
    canvas = Image.new("RGB", (SIZE * scale, SIZE * scale), paper)
    pen = ImageDraw.Draw(canvas)
    if chance.random() < word_share:
        word = chance.choice(WORDS)
        return Drawing((), word, _write(pen, word, scale, chance), _noisy(canvas, chance))
    things = _things(chance)
    is_alone = len(things) == 1
    for thing in things:
        _draw_thing(pen, thing, _box(thing, is_alone, chance), scale, chance)
    return Drawing(things, "", (0, 0, 0, 0), _noisy(canvas, chance))


def _things(chance: random.Random) -> tuple[Thing, ...]:
    """Mostly all different; sometimes all alike, or some of them."""
    places = sorted(chance.sample(sorted(PLACES), chance.choice((1, 1, 1, 2, 2, 3, 3, 4))))
    every = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    looks = chance.sample(every, len(places))
    mood = chance.random()
    if mood < 0.2:
        looks = [looks[0]] * len(places)
    elif mood < 0.35:
        looks = [chance.choice(looks[:2]) for _ in places]
    return tuple(Thing(shape, colour, place) for (colour, shape), place in zip(looks, places, strict=True))


def _box(thing: Thing, is_alone: bool, chance: random.Random) -> Box:
    """Where a thing is drawn, in pixels of the smallest picture; one alone may be larger than its place."""
    if is_alone and chance.random() < 0.6:
        side = chance.uniform(12, 30)
        row, column = (_centre(index, side, chance) for index in thing.place)
        return column - side / 2, row - side / 2, column + side / 2, row + side / 2
    side = chance.uniform(9, 14.5)
    left = thing.place[1] * CELL + chance.uniform(0.5, CELL - side - 0.5)
    top = thing.place[0] * CELL + chance.uniform(0.5, CELL - side - 0.5)
    return left, top, left + side, top + side


def _centre(index: int, side: float, chance: random.Random) -> float:
    """A centre well inside one third of the picture, with the thing inside the picture as far as that goes."""
    low, high = index * CELL + 3, (index + 1) * CELL - 3
    low, high = max(low, min(side / 2, high)), min(high, max(SIZE - side / 2, low))
    return chance.uniform(low, high)


def _draw_thing(pen: ImageDraw.ImageDraw, thing: Thing, box: Box, scale: int, chance: random.Random) -> None:
    left, top, right, bottom = (edge * scale for edge in box)
    ink = tuple(max(0, min(255, part + chance.randint(-20, 20))) for part in COLOURS[thing.colour])
    if thing.shape == "circle":
        pen.ellipse((left, top, right, bottom), fill=ink)
    elif thing.shape == "square":
        pen.rectangle((left, top, right, bottom), fill=ink)
    elif thing.shape == "triangle":
        pen.polygon([((left + right) / 2, top), (left, bottom), (right, bottom)], fill=ink)
    else:
        pen.polygon(star_points((left, top, right, bottom)), fill=ink)


def star_points(box: Box) -> list[tuple[float, float]]:
    """The corners of a star with five points that fills a box."""
    left, top, right, bottom = box
    points = []
    for corner in range(10):
        reach = 0.5 if corner % 2 == 0 else 0.2
        angle = math.pi * corner / 5
        points.append(
            (
                (left + right) / 2 + (right - left) * reach * math.sin(angle),
                (top + bottom) / 2 - (bottom - top) * reach * math.cos(angle),
            )
        )
    return points


def _write(pen: ImageDraw.ImageDraw, word: str, scale: int, chance: random.Random) -> Box:
    size = SIZE * scale
    font = ImageFont.load_default(size=chance.uniform(15, 19) * scale)
    left, top, right, bottom = pen.textbbox((0, 0), word, font=font)
    x = chance.uniform(scale, max(scale, size - (right - left) - scale))
    y = chance.uniform(scale, size - (bottom - top) - scale)
    ink = tuple(chance.randint(0, 50) for _ in range(3))
    pen.text((x - left, y - top), word, fill=ink, font=font)
    return x / size, y / size, min(1.0, (x + right - left) / size), (y + bottom - top) / size


def _noisy(canvas: Image.Image, chance: random.Random) -> Image.Image:
    """A third of the pictures is as clean as a program draws them."""
    if chance.random() < 0.35:
        return canvas
    noise = np.random.default_rng(chance.getrandbits(64)).normal(0, chance.uniform(1, 7), (*canvas.size, 3))
    return Image.fromarray(np.clip(np.asarray(canvas) + noise, 0, 255).astype(np.uint8))
