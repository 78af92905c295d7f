"""Vectors of pictures: their ids, their rows, and what is let go."""

from __future__ import annotations

import pytest
import torch

from llmapi_kit.checkpoints.vision_encoder import EncodedPicture
from llmapi_kit.errors import QueueFullError
from llmapi_kit.runners.image_memory import FIRST_IMAGE_ID, ImageMemory


def seen(value=0, count=3, runs=None, deeper=None):
    return EncodedPicture("<v>", runs or (count,), torch.full((count, 4), float(value)), deeper)


SIZE = seen().features.nbytes


def test_runs_of_vectors_have_ids_of_their_own_and_rows_are_found_by_them():
    memory = ImageMemory()
    a = memory.add("a", EncodedPicture("<v>,<v>", (2, 1), torch.arange(12.0).view(3, 4)))
    b = memory.add("b", seen(9, 1))
    first = FIRST_IMAGE_ID
    assert [list(run) for run in a.runs()] == [[first, first + 1], [first + 2]]
    assert [list(run) for run in b.runs()] == [[first + 3]]
    rows, deeper = memory.rows([first + 2, first + 3, first, first + 1])
    assert rows[:, 0].tolist() == [8, 9, 0, 4]
    assert deeper is None
    assert memory.rows([first + 1])[0].tolist() == [[4, 5, 6, 7]]


def test_what_is_added_deeper_in_comes_with_the_rows():
    memory = ImageMemory()
    deep = torch.arange(24.0).view(2, 3, 4)
    memory.add("a", seen(deeper=deep))
    memory.add("b", seen(deeper=-deep))
    _, deeper = memory.rows([FIRST_IMAGE_ID + 1, FIRST_IMAGE_ID + 2, FIRST_IMAGE_ID + 3])
    assert torch.equal(deeper, torch.cat([deep[:, 1:], -deep[:, :1]], dim=1))
    assert memory.num_bytes == 2 * (SIZE + deep.nbytes)


def test_the_same_picture_has_the_same_ids_whoever_brings_it():
    memory = ImageMemory()
    first = memory.add("a", seen(1, 1))
    assert memory.add("a", seen(1, 1)) is first
    assert memory.pin("a") is first
    assert memory.pin("b") is None


def test_what_nobody_uses_goes_when_room_is_needed_the_longest_unused_first():
    memory = ImageMemory(max_bytes=2 * SIZE)
    for name in "abc":
        memory.add(name, seen(), mine="abc")
    assert memory.num_bytes == 3 * SIZE  # all are in use, by one request
    memory.unpin("abc")
    assert memory.pin("a") is None
    assert memory.pin("b") is not None
    memory.add("d", seen(5))
    assert memory.pin("c") is None
    assert memory.rows([FIRST_IMAGE_ID + 9])[0].tolist() == seen(5, 1).features.tolist()


def test_pictures_of_requests_that_wait_do_not_fill_the_memory():
    memory = ImageMemory(max_bytes=2 * SIZE)
    for name in "ab":
        memory.add(name, seen())
    with pytest.raises(QueueFullError, match="Try again"):
        memory.add("c", seen())
    assert memory.num_bytes == 2 * SIZE
    memory.unpin("a")
    memory.add("c", seen())


@pytest.mark.parametrize("count", [1, 2])
def test_a_picture_stays_until_all_who_use_it_are_done(count):
    memory = ImageMemory(max_bytes=0)
    memory.add("a", seen(1, 1))
    memory.pin("a")
    memory.unpin(["a"] * count)
    assert (memory.num_bytes == 0) == (count == 2)
