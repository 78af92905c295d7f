"""Prompts with pictures in runs of tokens and vectors: where each stands, and what is computed when."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.image_chunk import ImageSpan, VectorItem
from llmapi_kit.runners.llama_vectors import VectorBatch, batches_of
from llmapi_kit.runners.multimodal_steps import MultimodalSteps

FIRST = 1 << 40
VOCAB = 5
# A picture of 6 vectors in 2 rows, which takes 3 positions
GRID = np.array(
    [[[s] * 6, [s + i // 3 for i in range(6)], [s + i % 3 for i in range(6)], [0] * 6] for s in (0, 1)], np.int32
)


class Images:
    """A memory with one picture."""

    def __init__(self, *spans):
        count = sum(span.num_vectors for span in spans)
        features = torch.arange(count, dtype=torch.float32)[:, None].expand(-1, 4)
        self._image = SimpleNamespace(first_id=FIRST, seen=SimpleNamespace(features=features, spans=spans))

    def at(self, image_id):
        return self._image


class Recorder:
    """Steps that tell what they were asked; logits are where a run ends."""

    num_slots, max_length, vocab_size, can_rewind = 4, 100, VOCAB, True

    def __init__(self):
        self.calls = []

    def step(self, items):
        self.calls.append([(item.slot, item.start, list(item.tokens)) for item in items])
        return self._rows([item.start + len(item.tokens) for item in items if item.wants_logits])

    def read_vectors(self, items):
        self.calls.append(
            [(item.slot, item.start, item.end, item.vectors[:, 0].astype(int).tolist()) for item in items]
        )
        self.items = items
        return self._rows([item.end for item in items if item.wants_logits])

    def copy_prefix(self, source, target, length):
        self.calls.append((source, target, length))

    def _rows(self, values):
        return np.repeat(np.array(values, np.float32)[:, None], VOCAB, axis=1)


def seeing(*spans):
    recorder = Recorder()
    return MultimodalSteps(recorder, Images(*spans), lambda: None), recorder


def ids(begin, end):
    return list(range(FIRST + begin, FIRST + end))


def test_texts_are_computed_together_then_pictures_then_what_follows_them():
    steps, recorder = seeing(ImageSpan(6, 6))
    logits = steps.step([StepItem(0, 0, [1, 2, *ids(0, 6), 3], True), StepItem(1, 7, [4], True)])
    assert recorder.calls == [[(0, 0, [1, 2]), (1, 7, [4])], [(0, 2, 8, [0, 1, 2, 3, 4, 5])], [(0, 8, [3])]]
    assert logits[:, 0].tolist() == [9, 8]


def test_vectors_that_see_only_what_is_before_them_come_in_chunks():
    steps, recorder = seeing(ImageSpan(2, 2), ImageSpan(4, 4))
    steps.step([StepItem(0, 0, [1, *ids(0, 4)], False)])
    steps.step([StepItem(0, 5, [*ids(4, 6), *ids(0, 1)], False)])
    vectors = [call for call in recorder.calls if len(call[0]) == 4]
    assert vectors == [[(0, 1, 3, [0, 1])], [(0, 3, 5, [2, 3])], [(0, 5, 7, [4, 5])], [(0, 7, 8, [0])]]


@pytest.mark.parametrize("span", [ImageSpan(6, 6, is_causal=False), ImageSpan(6, 3, grid=GRID)], ids=["both", "grid"])
def test_a_picture_whose_vectors_belong_together_waits_for_its_last_one(span):
    steps, recorder = seeing(span)
    steps.step([StepItem(0, 0, [1, 2, *ids(0, 4)], False)])
    assert recorder.calls == [[(0, 0, [1, 2])]]
    steps.step([StepItem(0, 6, [*ids(4, 6), 3], True)])
    end = 2 + span.num_positions
    assert recorder.calls[1:] == [[(0, 2, end, [0, 1, 2, 3, 4, 5])], [(0, end, [3])]]


def test_text_behind_a_picture_with_a_grid_stands_where_the_picture_ends_also_in_another_slot():
    steps, recorder = seeing(ImageSpan(6, 3, grid=GRID))
    steps.step([StepItem(0, 0, [1, *ids(0, 6), 2, 3], True)])
    (picture,) = recorder.items
    assert picture.positions[:3].tolist() == [[1] * 6, [1, 1, 1, 2, 2, 2], [1, 2, 3, 1, 2, 3]]
    steps.step([StepItem(0, 9, [4], True)])
    assert recorder.calls[-1] == [(0, 6, [4])]
    steps.copy_prefix(0, 2, 8)
    steps.copy_prefix(0, 3, 4)  # in the picture
    assert recorder.calls[-2:] == [(0, 2, 5), (0, 3, 1)]
    steps.step([StepItem(2, 8, [4], True), StepItem(3, 4, [*ids(3, 6), 2], True)])
    assert recorder.calls[-3:] == [[(2, 5, [4])], [(3, 1, 4, [0, 1, 2, 3, 4, 5])], [(3, 4, [2])]]
    steps.step([StepItem(0, 0, [1, 2, 3], True)])  # the slot begins anew
    steps.step([StepItem(0, 3, [4], True)])
    assert recorder.calls[-1] == [(0, 3, [4])]


def test_a_prompt_may_end_with_a_picture():
    steps, _ = seeing(ImageSpan(6, 6))
    logits = steps.step([StepItem(1, 0, [4], True), StepItem(0, 0, [1, *ids(0, 6)], True)])
    assert logits[:, 0].tolist() == [1, 7]


def item(slot, count, **options):
    return VectorItem(slot, 0, count, np.full((count, 2), slot, np.float32), **options)


def test_batches_hold_so_many_vectors_and_those_that_see_each_other_go_alone():
    items = [item(0, 3), item(1, 9), item(2, 4, is_causal=False), item(3, 2)]
    batches = [[(each.slot, each.start, len(each.vectors)) for each in batch] for batch in batches_of(items, 5)]
    assert sorted(batches) == sorted([[(0, 0, 3)], [(1, 0, 5)], [(1, 5, 4)], [(2, 0, 4)], [(3, 0, 2)]])
    batch = VectorBatch([item(0, 3, wants_logits=True), item(1, 2)])
    assert (batch.batch.n_tokens, batch.num_outputs) == (5, 1)
