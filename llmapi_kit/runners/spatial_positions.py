"""Positions in three dimensions: those of tokens of text rise by one, those of a picture say where in it they are.

So the position of a token depends on the pictures in front of it, and is not its place in the sequence. What a token
of text would get is kept for every place of every slot; a prefix that is found again brings it along.

Source: Wang et al. 2024 (Qwen2-VL), section 2.1, multimodal rotary position embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.image_memory import FIRST_IMAGE_ID, ImageMemory
from llmapi_kit.runners.step_layout import StepLayout


class SpatialPositions:
    """Positions of all slots.

    Args:
        images: the pictures.
        num_slots: of the runner.
        max_length: of a slot.
    """

    def __init__(self, images: ImageMemory, num_slots: int, max_length: int) -> None:
        self._images = images
        self._at = torch.zeros(num_slots, max_length + 1, dtype=torch.long)  # of a token of text at each place

    def of(self, layout: StepLayout) -> torch.Tensor:
        """(3, 1, T) of a step's tokens, on the CPU."""
        parts = []
        if layout.decodes:
            slots = torch.tensor([item.slot for item in layout.decodes])
            places = torch.tensor([item.start for item in layout.decodes])
            if all(item.tokens[0] < FIRST_IMAGE_ID for item in layout.decodes):
                at = self._at[slots, places]
                self._at[slots, places + 1] = at + 1
                parts.append(at.expand(3, -1))
            else:
                parts += [self._of_item(item) for item in layout.decodes]
        parts += [self._of_item(item) for item, _ in layout.chunks]
        return torch.cat(parts, dim=1)[:, None]

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """A slot holds the first tokens of another one now."""
        self._at[target, : length + 1] = self._at[source, : length + 1]

    def _of_item(self, item: StepItem) -> torch.Tensor:
        parts, start = [], 0
        while start < len(item.tokens):
            end = _end_of_kind(item.tokens, start)
            place = item.start + start
            if item.tokens[start] < FIRST_IMAGE_ID:
                parts.append(self._of_text(item.slot, place, end - start))
            else:
                end = min(end, start + self._num_left(item.tokens[start]))
                parts.append(self._of_picture(item.slot, place, item.tokens[start], end - start))
            start = end
        return torch.cat(parts, dim=1)

    def _of_text(self, slot: int, place: int, count: int) -> torch.Tensor:
        first = int(self._at[slot, place])
        rising = torch.arange(first, first + count + 1)
        self._at[slot, place : place + count + 1] = rising
        return rising[:-1].expand(3, -1)

    def _of_picture(self, slot: int, place: int, image_id: int, count: int) -> torch.Tensor:
        """Of some vectors of a picture, which may have begun in an earlier step."""
        image = self._images.at(image_id)
        positions = image.seen.positions
        if positions is None:
            raise RuntimeError("a picture has no positions, in a model whose positions have three dimensions")
        done = image_id - image.first_id
        first = int(self._at[slot, place - done])
        self._at[slot, place - done + positions.shape[1]] = first + image.seen.advance
        return positions[:, done : done + count].cpu() + first

    def _num_left(self, image_id: int) -> int:
        image = self._images.at(image_id)
        return image.first_id + len(image.seen.features) - image_id


def _end_of_kind(tokens: Sequence[int], start: int) -> int:
    """Where text ends, or what may be pictures."""
    is_text = tokens[start] < FIRST_IMAGE_ID
    return next((i for i in range(start, len(tokens)) if (tokens[i] < FIRST_IMAGE_ID) != is_text), len(tokens))
