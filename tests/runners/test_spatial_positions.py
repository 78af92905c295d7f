"""Positions in three dimensions, of slots with pictures in them."""

from __future__ import annotations

import pytest
import torch

from llmapi_kit.checkpoints.vision_encoder import EncodedPicture
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.image_memory import ImageMemory
from llmapi_kit.runners.picture_runs import picture_runs, same_picture_mask
from llmapi_kit.runners.spatial_positions import SpatialPositions
from llmapi_kit.runners.step_layout import StepLayout

# Two rows of three vectors: what follows them is three further than the first
GRID = torch.tensor([[0] * 6, [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]])


@pytest.fixture
def made():
    images = ImageMemory(is_spatial=True)
    placed = images.add("a", EncodedPicture("<v>", (6,), torch.zeros(6, 4), positions=GRID, advance=3))
    return SpatialPositions(images, num_slots=3, max_length=32), list(range(placed.first_id, placed.first_id + 6))


def of(positions, *items):
    return positions.of(StepLayout(items, torch.device("cpu")))[:, 0].tolist()


def expected(*parts):
    """Of tokens of text by their one position, and of pictures by the position of their first vector."""
    columns = [torch.full((3, 1), part) if isinstance(part, int) else GRID[:, part[1]] + part[0] for part in parts]
    return torch.cat(columns, dim=1).tolist()


ALL = slice(None)


def test_text_after_a_picture_goes_on_where_the_picture_ends(made):
    positions, ids = made
    assert of(positions, StepItem(0, 0, [5, 5, *ids, 5], True)) == expected(0, 1, (2, ALL), 5)
    assert of(positions, StepItem(0, 9, [5], True)) == expected(6)
    assert of(positions, StepItem(0, 10, [5, *ids, 5], True)) == expected(7, (8, ALL), 11)


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_picture_may_be_cut_by_the_end_of_a_chunk(made, cut):
    positions, ids = made
    tokens = [5, *ids, 5]
    whole = of(positions, StepItem(0, 0, tokens, True))
    parts = [of(positions, StepItem(1, 0, tokens[:cut], False)), of(positions, StepItem(1, cut, tokens[cut:], True))]
    assert torch.cat([torch.tensor(part) for part in parts], dim=1).tolist() == whole
    assert of(positions, StepItem(1, 8, [5], True)) == expected(5)


def test_a_prefix_brings_its_positions_along(made):
    positions, ids = made
    of(positions, StepItem(0, 0, [5, *ids, 5, 5], True))
    positions.copy_prefix(0, 2, 8)
    assert of(positions, StepItem(2, 8, [6], True)) == expected(5)


def test_slots_of_one_step_do_not_disturb_each_other(made):
    positions, ids = made
    of(positions, StepItem(0, 0, [5, *ids], True))
    of(positions, StepItem(2, 0, [5, 5, 5], True))
    found = of(positions, StepItem(2, 3, [5], True), StepItem(1, 0, [*ids, 5], True), StepItem(0, 7, [5], True))
    assert found == expected(4, 3, (0, ALL), 3)  # decodes by slot, then chunks


def test_the_vectors_of_a_picture_see_each_other_and_no_other_picture(made):
    _, ids = made
    tokens = [5, *ids[:2], 5, *ids[2:4]]
    assert picture_runs(tokens) == [(1, 3), (4, 6)]
    found = same_picture_mask(tokens, torch.device("cpu"))
    assert found.int().tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 1, 1],
    ]
    assert same_picture_mask([1, 2, 3], torch.device("cpu")) is None
