"""Where each token of a packed step belongs: its slot, its position, and with which others it attends.

Made once a step, read by every layer. Knows nothing of models or requests. Engine thread only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llmapi_kit.runners.base import StepItem

# More groups than this cost more in calls than they save in copies and padding.
MAX_GROUPS = 6


class DecodeGroup:
    """Decoded tokens that attend in one call.

    Args:
        items: neighbours in the row.
        start: index in the row of the first one.
        positions: (n,) of the tokens.
        slots: (n,) of the tokens.

    Attributes:
        start: index in the row of the first token.
        end: one past the last.
        slots: where their past is: a slice, which is a view, or an index, which copies.
        length: of the longest past, the token itself included.
    """

    def __init__(self, items: Sequence[StepItem], start: int, positions: torch.Tensor, slots: torch.Tensor) -> None:
        self.start = start
        self.end = start + len(items)
        self.length = 1 + max(item.start for item in items)
        first = items[0].slot
        is_dense = items[-1].slot - first + 1 == len(items)
        self.slots: slice | torch.Tensor = slice(first, first + len(items)) if is_dense else slots
        self._is_even = self.length == 1 + min(item.start for item in items)
        self._positions = positions
        self._masks: dict[int, torch.Tensor | None] = {}

    def mask(self, window: int, dtype: torch.dtype) -> torch.Tensor | None:
        """What is added to the scores, (n, 1, 1, length); None for nothing.

        A float mask, made once a step: the attention would turn a bool one into it again in every layer.

        Args:
            window: how many of the latest positions are seen; 0 for all.
            dtype: of the queries.
        """
        if window not in self._masks:
            self._masks[window] = self._make_mask(window, dtype)
        return self._masks[window]

    def _make_mask(self, window: int, dtype: torch.dtype) -> torch.Tensor | None:
        if self._is_even and (not window or window >= self.length):
            return None
        at = self._positions[:, None]
        ahead = torch.arange(self.length, device=at.device)[None]
        is_hidden = ahead > at
        if window:
            is_hidden |= ahead <= at - window
        mask = torch.zeros(is_hidden.shape, dtype=dtype, device=at.device)
        return mask.masked_fill_(is_hidden, -torch.inf)[:, None, None]


class StepLayout:
    """A packed step.

    Items with one token come first in the row, ordered by slot, so that neighbours attend in one call; chunks of
    several tokens follow, one attention call each.

    Args:
        items: of one step, each slot at most once.
        device: where index tensors are put.

    Attributes:
        input_ids: (1, T).
        position_ids: (1, T).
        slots: (T,) slot of each token.
        positions: (T,) position of each token.
        wants_all: whether the logits of every token are wanted, in the order of the row.
        wanted: (num_wanted,) indices into the row of the tokens whose logits are wanted, in the items' order.
        decodes: the items with one token, by slot.
        decode_groups: the same, as they attend.
        chunks: (item, first index in the row) of the others.
        pooled: (item, first index in the row) of those whose hidden states go into a mean.
        blocks: of chunks by their first index in the row: (n, n), which of its tokens see each other both ways.
        chunk_masks: of chunks, by their first index in the row and a window: what all layers add to the scores.
    """

    def __init__(self, items: Sequence[StepItem], device: torch.device) -> None:
        self._items, self._device = items, device
        self._copies: dict[torch.device, StepLayout] = {}
        self.decodes = sorted((item for item in items if len(item.tokens) == 1), key=lambda item: item.slot)
        self.chunks: list[tuple[StepItem, int]] = []
        self.blocks: dict[int, torch.Tensor] = {}
        self.chunk_masks: dict[tuple[int, int], torch.Tensor] = {}
        tokens: list[int] = []
        slots: list[int] = []
        positions: list[int] = []
        last: dict[int, int] = {}  # slot to the index of its last token
        for item in self.decodes:
            last[item.slot] = len(tokens)
            tokens.append(item.tokens[0])
            slots.append(item.slot)
            positions.append(item.start)
        for item in items:
            if len(item.tokens) > 1:
                self.chunks.append((item, len(tokens)))
                tokens.extend(item.tokens)
                slots.extend([item.slot] * len(item.tokens))
                positions.extend(range(item.start, item.start + len(item.tokens)))
                last[item.slot] = len(tokens) - 1
        packed = torch.tensor([tokens, positions, slots], device=device)
        self.input_ids, self.position_ids = packed[0:1], packed[1:2]
        self.positions, self.slots = packed[1], packed[2]
        wanted: list[int] = []
        for item in items:
            if item.wants_logits:
                end = last[item.slot] + 1
                wanted.extend(range(end - len(item.tokens) if item.wants_every else end - 1, end))
        self.wants_all = wanted == list(range(len(tokens)))
        self.wanted = torch.tensor(wanted, device=device, dtype=torch.long)
        self.decode_groups = self._group()
        self.pooled = [(item, last[item.slot] + 1 - len(item.tokens)) for item in items if item.wants_mean]

    def on(self, device: torch.device) -> StepLayout:
        """The same step with its tensors on another device, where some of the layers are."""
        if device == self._device:
            return self
        if device not in self._copies:
            copied = self._copies[device] = StepLayout(self._items, device)
            copied.blocks = {at: block.to(device) for at, block in self.blocks.items()}
        return self._copies[device]

    def _group(self) -> list[DecodeGroup]:
        """Neighbouring slots with pasts of similar length; all in one where that would make too many groups."""
        groups: list[list[StepItem]] = []
        shortest = longest = 0
        for item in self.decodes:
            length = item.start + 1
            shortest, longest = min(shortest, length), max(longest, length)
            # Padding to twice the length of the shortest, or by little, is cheaper than another call
            is_alike = longest <= max(2 * shortest, 256)
            if groups and groups[-1][-1].slot + 1 == item.slot and is_alike:
                groups[-1].append(item)
            else:
                groups.append([item])
                shortest = longest = length
        if len(groups) > MAX_GROUPS:
            groups = [self.decodes]
        made, start = [], 0
        for items in groups:
            end = start + len(items)
            made.append(DecodeGroup(items, start, self.positions[start:end], self.slots[start:end]))
            start = end
        return made
