"""Which vectors of a chunk belong to one picture: in some families, these attend to each other both ways."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llmapi_kit.runners.image_memory import FIRST_IMAGE_ID


def picture_runs(ids: Sequence[int]) -> list[tuple[int, int]]:
    """(start, end) of each run of vectors, which has to be computed in one step."""
    runs, start = [], -1
    for index, token_id in enumerate((*ids, 0)):
        is_image = token_id >= FIRST_IMAGE_ID
        if is_image and start < 0:
            start = index
        elif not is_image and start >= 0:
            runs.append((start, index))
            start = -1
    return runs


def same_picture_mask(ids: Sequence[int], device: torch.device) -> torch.Tensor | None:
    """(n, n) for a chunk, true where both belong to one picture; None where the chunk has no picture."""
    runs = picture_runs(ids)
    if not runs:
        return None
    numbers = torch.zeros(len(ids), dtype=torch.long, device=device)
    for number, (start, end) in enumerate(runs, 1):
        numbers[start:end] = number
    return (numbers[:, None] == numbers) & (numbers > 0)
