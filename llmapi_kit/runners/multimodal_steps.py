"""Steps of a GGUF model that sees: splits prompts with pictures into tokens and vectors, which llama.cpp reads apart.

To the scheduler a prompt with pictures is a list of ids like any other, see `llmapi_kit.runners.image_memory`. Here,
the ids of pictures become vectors again. Tokens of all requests are computed together, so are vectors of all requests.
Two things differ from text: where positions have several dimensions, a picture takes fewer of them than it has
vectors, so that what follows stands earlier; and where its parts see each other, it is computed whole, in the step that
has its last vector. Used on one thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.image_chunk import ImageSpan, VectorItem
from llmapi_kit.runners.image_memory import FIRST_IMAGE_ID, ImageMemory
from llmapi_kit.runners.llama_cpp_runner import Steps

Floats = npt.NDArray[np.float32]


class VectorSteps(Steps, Protocol):
    """Steps that take vectors too: `llama_steps.LlamaSteps`, or `llama_process.LlamaProcess`."""

    def read_vectors(self, items: Sequence[VectorItem]) -> Floats:
        """Compute vectors in place of tokens; logits (num_wanted, vocab_size), until the next step."""
        ...


class _Placed(NamedTuple):
    """A picture in a slot that takes fewer positions than it has vectors."""

    begin: int  # both count ids
    end: int
    num_positions: int


class MultimodalSteps:
    """See `llmapi_kit.runners.llama_cpp_runner.Steps`.

    Args:
        steps: who computes; closed with this.
        images: what the ids of pictures stand for.
        close_also: called when this is closed.
    """

    def __init__(self, steps: VectorSteps, images: ImageMemory, close_also: Callable[[], object]) -> None:
        self._steps, self._images, self._close_also = steps, images, close_also
        self.num_slots, self.max_length, self.vocab_size = steps.num_slots, steps.max_length, steps.vocab_size
        self.can_rewind = steps.can_rewind
        self._placed: list[list[_Placed]] = [[] for _ in range(self.num_slots)]

    def step(self, items: Sequence[StepItem]) -> Floats:
        """See `Runner.step`."""
        if not any(self._placed[item.slot] or max(item.tokens) >= FIRST_IMAGE_ID for item in items):
            return self._steps.step(items)
        queues = [deque(self._runs(item)) for item in items]
        answers: list[Floats] = [np.empty((0, self.vocab_size), np.float32)] * len(items)
        while any(queues):
            self._compute(queues, StepItem, answers)
            self._compute(queues, VectorItem, answers)
        return np.concatenate(answers)

    def restart(self) -> bool:
        """See `llama_cpp_runner.Steps.restart`."""
        return self._steps.restart()

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See `Runner.copy_prefix`."""
        self._steps.copy_prefix(source, target, _position(self._placed[source], length))
        self._placed[target] = [each for each in self._placed[source] if each.end <= length]

    def free(self, slot: int) -> None:
        """See `Runner.free`."""
        self._steps.free(slot)

    def mean_state(self, slot: int) -> list[float]:
        """See `Runner.mean_state`."""
        return self._steps.mean_state(slot)

    def add_adapter(self, adapter: int, weights: str) -> None:
        """See `AdapterRunner.add_adapter`."""
        self._steps.add_adapter(adapter, weights)

    def remove_adapter(self, adapter: int) -> None:
        """See `AdapterRunner.remove_adapter`."""
        self._steps.remove_adapter(adapter)

    def close(self) -> None:
        """See `Runner.close`."""
        self._steps.close()
        self._close_also()

    def _compute(self, queues: Sequence[deque[StepItem | VectorItem]], kind: type, answers: list[Floats]) -> None:
        """Compute what comes next of each item, where it is of one kind."""
        heads = [(at, queue.popleft()) for at, queue in enumerate(queues) if queue and isinstance(queue[0], kind)]
        if not heads:
            return
        compute: Callable[[list[Any]], Floats] = self._steps.step if kind is StepItem else self._steps.read_vectors
        logits = compute([item for _, item in heads])
        row = 0
        for at, item in heads:
            count = _num_rows(item)
            if count:
                answers[at] = logits[row : row + count].copy()
            row += count

    def _runs(self, item: StepItem) -> Iterator[StepItem | VectorItem]:
        """An item in runs of tokens and of vectors, at their positions."""
        placed = self._placed[item.slot]
        while placed and placed[-1].end > item.start:  # what stands there is computed anew
            placed.pop()
        done, count = 0, len(item.tokens)
        while done < count:
            if item.tokens[done] < FIRST_IMAGE_ID:
                tokens = _text(item.tokens, done)
                start = _position(placed, item.start + done)
                done += len(tokens)
                yield item._replace(start=start, tokens=tokens, wants_logits=item.wants_logits and done == count)
            else:
                ids = (item.tokens[done], count - done)
                num, run = self._vectors(item.slot, item.start + done, *ids)
                done += num
                if run is not None:
                    yield replace(run, wants_logits=item.wants_logits and done == count, adapter=item.adapter)

    def _vectors(self, slot: int, at: int, first_id: int, limit: int) -> tuple[int, VectorItem | None]:
        """How many ids from one on belong to one span, and the vectors to compute for them; None where it is too early.

        Args:
            slot: of the item.
            at: where the id stands among those of the slot.
            first_id: the id.
            limit: ids that there are from it on.
        """
        image, placed = self._images.at(first_id), self._placed[slot]
        vectors = image.seen.features.numpy()
        span, row = _span_at(image.seen.spans, first_id - image.first_id)
        offset = first_id - image.first_id - row
        num = min(limit, span.num_vectors - offset)
        if not span.is_whole:
            start = _position(placed, at)
            return num, VectorItem(slot, start, start + num, vectors[row + offset : row + offset + num])
        if offset + num < span.num_vectors:
            return num, None
        begin = at - offset
        start = _position(placed, begin)
        placed.append(_Placed(begin, begin + span.num_vectors, span.num_positions))
        end, rows = start + span.num_positions, vectors[row : row + span.num_vectors]
        return num, VectorItem(slot, start, end, rows, span.positions(start), span.is_causal)


def _text(tokens: Sequence[int], begin: int) -> Sequence[int]:
    """The tokens up to the next vector."""
    if max(tokens) < FIRST_IMAGE_ID:
        return tokens if begin == 0 else tokens[begin:]
    return list(takewhile(lambda token: token < FIRST_IMAGE_ID, tokens[begin:]))


def _position(placed: Sequence[_Placed], index: int) -> int:
    """Where an id stands, which is earlier where pictures take less; in a picture, where that begins."""
    saved = 0
    for each in placed:
        if each.end <= index:
            saved += each.end - each.begin - each.num_positions
        elif each.begin < index:
            return each.begin - saved
    return index - saved


def _span_at(spans: Sequence[ImageSpan], row: int) -> tuple[ImageSpan, int]:
    """The span that has a row of a picture's vectors, and its first row."""
    first = 0
    for span in spans:
        if row < first + span.num_vectors:
            return span, first
        first += span.num_vectors
    raise IndexError(row)


def _num_rows(item: StepItem | VectorItem) -> int:
    every = isinstance(item, StepItem) and item.wants_every
    return (len(item.tokens) if isinstance(item, StepItem) and every else 1) * item.wants_logits
