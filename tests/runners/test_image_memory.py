"""Vectors of pictures: their ids, their rows, and what is let go."""

from __future__ import annotations

import pytest
import torch

from llmapi_kit.runners.image_memory import FIRST_IMAGE_ID, ImageMemory

MARK = 7


def features(value, count=3):
    return torch.full((count, 4), float(value))


def test_marks_become_ids_of_their_own_and_rows_are_found_by_them():
    memory = ImageMemory()
    a = memory.add("a", [1, MARK, MARK, 2, MARK], MARK, torch.arange(12.0).view(3, 4))
    b = memory.add("b", [MARK], MARK, features(9, 1))
    assert a.ids == (1, FIRST_IMAGE_ID, FIRST_IMAGE_ID + 1, 2, FIRST_IMAGE_ID + 2)
    assert b.ids == (FIRST_IMAGE_ID + 3,)
    rows = memory.rows(torch.tensor([FIRST_IMAGE_ID + 2, FIRST_IMAGE_ID + 3, FIRST_IMAGE_ID]))
    assert rows[:, 0].tolist() == [8, 9, 0]
    assert memory.rows(torch.tensor([FIRST_IMAGE_ID + 1]))[0].tolist() == [4, 5, 6, 7]


def test_the_same_picture_has_the_same_ids_whoever_brings_it():
    memory = ImageMemory()
    first = memory.add("a", [MARK], MARK, features(1, 1))
    assert memory.add("a", [MARK], MARK, features(1, 1)) is first
    assert memory.pin("a") is first
    assert memory.pin("b") is None


def test_what_nobody_uses_goes_when_room_is_needed_the_longest_unused_first():
    memory = ImageMemory(max_bytes=2 * features(0).nbytes)
    for name in "abc":
        memory.add(name, [MARK] * 3, MARK, features(0))
    assert memory.num_bytes == 3 * features(0).nbytes  # all are in use
    memory.unpin("abc")
    assert memory.pin("a") is None
    assert memory.pin("b") is not None
    memory.add("d", [MARK] * 3, MARK, features(5))
    assert memory.pin("c") is None
    assert memory.rows(torch.tensor([FIRST_IMAGE_ID + 9])).tolist() == features(5, 1).tolist()


@pytest.mark.parametrize("count", [1, 2])
def test_a_picture_stays_until_all_who_use_it_are_done(count):
    memory = ImageMemory(max_bytes=0)
    memory.add("a", [MARK], MARK, features(1, 1))
    memory.pin("a")
    memory.unpin(["a"] * count)
    assert (memory.num_bytes == 0) == (count == 2)
