"""Tokens as a ``llama_batch``, and which rows of its output belong to which items of a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from llmapi_kit.runners import libllama
from llmapi_kit.runners.base import StepItem


class Piece(NamedTuple):
    """Some consecutive tokens of an item, which go into one call.

    Attributes:
        number: the item's index in its step.
        item: the whole item.
        begin: index of the first of its tokens.
        end: index behind the last.
    """

    number: int
    item: StepItem
    begin: int
    end: int

    @property
    def has_every(self) -> bool:
        """Whether every token has a row of output."""
        return self.item.wants_every or self.item.wants_mean

    @property
    def num_outputs(self) -> int:
        """Tokens with a row of output."""
        if self.has_every:
            return self.end - self.begin
        return int(self.item.wants_logits and self.end == len(self.item.tokens))


class TokenBatch:
    """The arrays behind a ``llama_batch``, filled anew for each call.

    Args:
        size: tokens that fit.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._tokens, self._positions, self._slots = (np.zeros(size, np.int32) for _ in range(3))
        self._outputs = np.zeros(size, np.int8)
        self._counts = np.ones(size, np.int32)  # of slots that a token belongs to
        self._slot_addresses = self._slots.ctypes.data + 4 * np.arange(size, dtype=np.uint64)
        arrays = (self._positions, self._counts, self._slot_addresses, self._outputs)
        self._addresses = (self._tokens.ctypes.data, None, *(array.ctypes.data for array in arrays))

    def fill(self, part: Sequence[Piece]) -> libllama.Batch:
        """The batch of some pieces. Valid until this is called again."""
        at = 0
        for _, item, begin, end in part:
            stop = at + end - begin
            self._tokens[at:stop] = item.tokens[begin:end]
            self._positions[at:stop] = range(item.start + begin, item.start + end)
            self._slots[at:stop] = item.slot
            self._outputs[at:stop] = item.wants_every or item.wants_mean
            if item.wants_logits and end == len(item.tokens):
                self._outputs[stop - 1] = True
            at = stop
        return libllama.Batch(at, *self._addresses)

    def fill_tokens(self, items: Sequence[StepItem]) -> libllama.Batch:
        """The batch of a token of each item, with a row of output each. Valid until this is called again."""
        size = len(items)
        self._tokens[:size] = [item.tokens[0] for item in items]
        self._positions[:size] = [item.start for item in items]
        self._slots[:size] = [item.slot for item in items]
        self._outputs[:size] = True
        return libllama.Batch(size, *self._addresses)


def calls_of(items: Sequence[tuple[int, StepItem]], max_tokens: int, max_outputs: int) -> Iterator[list[Piece]]:
    """What goes into one call each: items of one adapter, within limits.

    Args:
        items: each with its index in the step.
        max_tokens: of a call.
        max_outputs: rows of output of a call.
    """
    part: list[Piece] = []
    room, outputs = max_tokens, max_outputs
    for index, item in items:
        begin, has_every = 0, item.wants_every or item.wants_mean
        while begin < len(item.tokens):
            is_other = bool(part) and part[0].item.adapter != item.adapter
            if not room or not outputs or is_other:
                yield part
                part, room, outputs = [], max_tokens, max_outputs
            end = min(len(item.tokens), begin + room, begin + outputs if has_every else len(item.tokens))
            piece = Piece(index, item, begin, end)
            part.append(piece)
            room, outputs, begin = room - (end - begin), outputs - piece.num_outputs, end
    if part:
        yield part


def is_plain(items: Sequence[StepItem]) -> bool:
    """Whether each is one token that gives one row, all through the same adapter."""
    adapter = items[0].adapter
    return all(
        len(tokens) == 1 and wants_logits and not (wants_every or wants_mean) and its_adapter == adapter
        for _, _, tokens, wants_logits, wants_every, wants_mean, its_adapter, _ in items
    )


def first_rows(items: Sequence[StepItem]) -> list[int]:
    """The row of the answer with which each item begins, and at the end how many there are."""
    rows = [0]
    for item in items:
        rows.append(rows[-1] + (len(item.tokens) if item.wants_every else 1) * item.wants_logits)
    return rows


def wanted_rows(part: Sequence[Piece], first: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Each row of a call's output that is wanted as logits, with its row in the answer."""
    row = 0
    for piece in part:
        if piece.item.wants_logits and piece.item.wants_every:
            yield from ((row + i, first[piece.number] + piece.begin + i) for i in range(piece.num_outputs))
        elif piece.item.wants_logits and piece.end == len(piece.item.tokens):
            yield row + piece.num_outputs - 1, first[piece.number]
        row += piece.num_outputs
