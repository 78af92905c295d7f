from __future__ import annotations

import torch

from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.step_layout import MAX_GROUPS, StepLayout


def decode(slot, position):
    return StepItem(slot, position, [slot + 100], True)


def layout(*items):
    return StepLayout(items, torch.device("cpu"))


def groups(made):
    return [([item.slot for item in made.decodes[g.start : g.end]], g.length) for g in made.decode_groups]


def test_decodes_come_first_by_slot_and_chunks_follow():
    made = layout(decode(3, 7), StepItem(0, 4, [1, 2, 3], True), decode(1, 2))
    assert made.input_ids.tolist() == [[101, 103, 1, 2, 3]]
    assert made.position_ids.tolist() == [[2, 7, 4, 5, 6]]
    assert made.slots.tolist() == [1, 3, 0, 0, 0]
    assert made.wanted.tolist() == [1, 4, 0]
    assert not made.wants_all


def test_neighbours_of_like_length_attend_together_on_a_view():
    made = layout(decode(2, 300), decode(3, 310), decode(4, 290))
    assert groups(made) == [([2, 3, 4], 311)]
    assert made.decode_groups[0].slots == slice(2, 5)
    assert made.wants_all


def test_a_long_past_is_not_padded_onto_short_ones():
    made = layout(decode(0, 50), decode(1, 4000), decode(2, 60), decode(3, 70))
    assert groups(made) == [([0], 51), ([1], 4001), ([2, 3], 71)]


def test_a_gap_between_slots_splits_the_view():
    assert groups(layout(decode(0, 9), decode(2, 9))) == [([0], 10), ([2], 10)]


def test_too_many_groups_become_one():
    made = layout(*(decode(2 * i, 9) for i in range(MAX_GROUPS + 1)))
    assert len(made.decode_groups) == 1
    assert made.decode_groups[0].slots.tolist() == [2 * i for i in range(MAX_GROUPS + 1)]


def test_equal_pasts_need_no_mask_and_others_hide_what_is_ahead():
    assert layout(decode(0, 4), decode(1, 4)).decode_groups[0].mask(0, torch.float32) is None
    mask = layout(decode(0, 1), decode(1, 3)).decode_groups[0].mask(0, torch.float32)
    assert mask[:, 0, 0].tolist() == [[0, 0, -torch.inf, -torch.inf], [0, 0, 0, 0]]
    window = layout(decode(0, 3)).decode_groups[0].mask(2, torch.float32)
    assert window[0, 0, 0].tolist() == [-torch.inf, -torch.inf, 0, 0]
