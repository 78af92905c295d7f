"""Steps of decoders through `decoder.c`: one call a step, without the GIL.

In torch a step of a small model is some fifty small operations, each of which takes and releases the GIL that the
server's thread wants too. Here Python only lists tokens; the server's work runs beside the whole step.

Owns the packed weights and the KV memory, which the system provides page by page as slots fill up. Knows slots and
positions, nothing of requests. Engine thread only.
"""

from __future__ import annotations

import ctypes
import weakref
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from llmapi_kit.checkpoints.decoder_config import DecoderConfig
from llmapi_kit.checkpoints.decoder_weights import DecoderWeights
from llmapi_kit.checkpoints.integer_weights import IntegerFormat
from llmapi_kit.checkpoints.model_decoder import config_of, obstacle_to_decoder
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.image_memory import FIRST_IMAGE_ID
from llmapi_kit.runners.lazy_memory import LazyMemory
from llmapi_kit.runners.native.adapter_tables import AdapterTables, inputs_of
from llmapi_kit.runners.native.compiler import NativeUnavailableError, load_library
from llmapi_kit.runners.native.formats import Formats
from llmapi_kit.runners.native.packed_model import PackedModel
from llmapi_kit.runners.native.structures import declare

# Multiplications in a step from which sharing it pays for waking the other threads, and how many more for each prompt
# in it but the first: several come in a burst, while the server's thread needs a core to read the rest
SHARED_FROM = 200_000_000
SHARED_PER_PROMPT = 80_000_000
Rows = Callable[[Sequence[int]], torch.Tensor]
GIVEN = -1  # in place of a token whose vector is there


class _TokenArrays:
    """The tokens of a step one after the other, as decoder.c reads them.

    Attributes:
        tokens: ids.
        positions: of each in its slot.
        slots: of each.
        wanted: which of them, by index, get logits.
        pooled: the items with `wants_mean`, each with the index of its first token.
    """

    __slots__ = ("pooled", "positions", "slots", "tokens", "wanted")

    def __init__(self, items: Sequence[StepItem]) -> None:
        self.pooled: list[tuple[StepItem, int]] = []
        self.tokens, self.positions, self.slots, self.wanted = array("q"), array("q"), array("q"), array("q")
        for item in items:
            num = len(item.tokens)
            if item.wants_mean:
                self.pooled.append((item, len(self.tokens)))
            self.tokens.extend(item.tokens)
            self.positions.extend(range(item.start, item.start + num))
            self.slots.extend((item.slot,) * num)
            if item.wants_logits:
                end = len(self.tokens)
                self.wanted.extend(range(end - num if item.wants_every else end - 1, end))

    def take_image_ids(self) -> dict[int, int]:
        """Ids that stand for pictures, by their index; `GIVEN` takes their place."""
        tokens = self.tokens
        if max(tokens) < FIRST_IMAGE_ID:
            return {}
        image_ids = {index: token for index, token in enumerate(tokens) if token >= FIRST_IMAGE_ID}
        for index in image_ids:
            tokens[index] = GIVEN
        return image_ids


class NativeDecoder:
    """Computes packed steps of a model whose weights it takes over.

    Each tensor leaves `weights` as it is packed, so memory holds them once.

    Args:
        weights: of a type that goes with `dtype`; see `is_available`.
        num_slots: sequences held at once.
        max_length: positions a slot.
        num_threads: of a step.
        dtype: of arithmetic: float32, or the weights' own, which it is by default; see `Formats`.
        kv_dtype: of keys and values; that of arithmetic by default. In int8 each head of a token has a scale.

    Attributes:
        adapters: which the tokens of a step may have.
        original_length: up to which a sequence is short, where slots hold longer ones and these are computed
            otherwise; else 0.

    Raises:
        NativeUnavailableError: the C part can't be compiled here; the weights are as they were.
    """

    def __init__(
        self,
        weights: DecoderWeights,
        *,
        num_slots: int,
        max_length: int,
        num_threads: int,
        dtype: torch.dtype | None = None,
        kv_dtype: torch.dtype | None = None,
    ) -> None:
        config = weights.config
        formats = Formats(weights.integers or weights.dtype, dtype or weights.dtype, kv_dtype)
        self._library = declare(_compiled(formats))
        self._num_threads = num_threads
        self._num_weights = _num_multiplied(weights)
        self._width = 2 * config.num_hidden_layers * config.num_attention_heads * config.head_dim
        self._panel = int(self._library.panel_width())
        self.adapters = AdapterTables(config, int(self._library.vector_width()), self._rows_of)
        self._config = config
        self.vocab_size = config.vocab_size
        self._hidden = config.hidden_size
        self.original_length = weights.original_length if weights.original_length < max_length else 0
        self._team = self._library.team_start(num_threads)
        if not self._team:
            raise MemoryError("no memory for the threads of a step")
        self._stop = weakref.finalize(self, self._library.team_stop, self._team)
        with ThreadPoolExecutor(num_threads, "llmapi_kit pack", torch.set_num_threads, (1,)) as threads:
            packed = PackedModel(
                self._library,
                self._team,
                weights,
                max_length=max_length,
                original_length=self.original_length,
                threads=threads,
            )
        self._packed, self._model, self._layers = packed, packed.structure, packed.layers
        slot_size = int(self._library.slot_size(self._model))
        self._item_bytes = formats.stored.itemsize
        self._slot_bytes = slot_size * self._item_bytes
        self._pages = LazyMemory(num_slots * self._slot_bytes, has_large_pages=True)
        self._memory = np.frombuffer(self._pages.buffer, np.uint8).reshape(num_slots, self._slot_bytes)
        self._model.memory = self._memory.ctypes.data
        self._logits = torch.empty(num_slots, self._padded(self.vocab_size))
        self._reserve(1)

    @property
    def windows(self) -> list[int]:
        """How many of the latest positions a token sees in each layer, itself included; 0 for all."""
        return [layer.window for layer in self._layers]

    @windows.setter
    def windows(self, windows: list[int]) -> None:
        for layer, window in zip(self._layers, windows, strict=True):
            layer.window = window

    @staticmethod
    def can_run(model: Any, dtype: torch.dtype | None = None) -> bool:
        """Whether the forward pass of a model of transformers is written out in C, for its device and types."""
        return not NativeDecoder.obstacle(model, dtype)

    @staticmethod
    def obstacle(model: Any, dtype: torch.dtype | None = None) -> str:
        """Why it is not, as a clause; empty where it is."""
        if model.device.type != "cpu":
            return f"the model is on {model.device}"
        if Formats(model.dtype, dtype or model.dtype).macros() is None:
            types = " and ".join(
                sorted({str(each).removeprefix("torch.") for each in (model.dtype, dtype or model.dtype)})
            )
            return f"it computes in float32 and bfloat16, and not in {types}"
        if obstacle := obstacle_to_decoder(model):
            return obstacle
        return "" if _has_even_widths(config_of(model)) else "one of its matrices has an odd number of inputs"

    @staticmethod
    def compile(formats: Formats) -> None:
        """Compile the step for some number formats, unless it is there.

        Raises:
            NativeUnavailableError: it can't be compiled here, or there is none for these.
        """
        _compiled(formats)

    @classmethod
    def is_available(
        cls, weights: torch.dtype | IntegerFormat, dtype: torch.dtype, kv_dtype: torch.dtype | None = None
    ) -> bool:
        """Whether there is a compiled step for these number formats; compiles it where it is missing.

        Says nothing of what is amiss: the runner in torch, which takes its place, does.
        """
        try:
            cls.compile(Formats(weights, dtype, kv_dtype))
        except NativeUnavailableError:
            return False
        return True

    @property
    def num_bytes(self) -> int:
        """Size of the KV memory, were all of it used."""
        return self._memory.nbytes

    def step(
        self, items: Sequence[StepItem], rows: Rows | None = None, are_long: Sequence[bool] = ()
    ) -> tuple[torch.Tensor, torch.Tensor, list[tuple[StepItem, int]]]:
        """Compute items.

        Args:
            items: of one step.
            rows: vectors (n, hidden) of ids that stand for pictures, in a model that sees.
            are_long: whether each item is of a long sequence, where there is an `original_length`.

        Returns:
            Logits (num_wanted, vocab) as `Runner.step` says and the normed last hidden states (T, hidden) of all tokens
            in the items' order, both of which the next step overwrites; and the items with `wants_mean`, each with the
            row of its first token.
        """
        step = _TokenArrays(items)
        tokens, positions, wanted = step.tokens, step.positions, step.wanted
        num_tokens, num_wanted = len(tokens), len(wanted)
        image_ids = step.take_image_ids() if rows is not None else {}
        least = GIVEN if image_ids else 0
        # C would read and write beyond its memory
        if not (least <= min(tokens) <= max(tokens) < self.vocab_size and max(positions) < self._model.max_length):
            raise IndexError(f"a token is not below {self.vocab_size} or a position not below {self._model.max_length}")
        if num_tokens > self._capacity:
            self._reserve(num_tokens)
        if rows is not None and image_ids:
            self._put(list(image_ids), rows(list(image_ids.values())))
        turns = self._turns(items, are_long) if self.original_length else positions
        adapters = self.adapters.of_tokens(items)
        for places, vectors in self.adapters.embedded(items) if adapters else ():
            self._put(places, vectors * self._config.variant.embedding_scale)
            for place in places:
                tokens[place] = GIVEN
        logits = self._logits
        if num_wanted > len(logits):  # scored prompts
            logits = torch.empty(num_wanted, logits.shape[1])
        self._library.step(
            self._model,
            self._team,
            self._num_threads if self._is_shared(items, step) else 1,
            num_tokens,
            tokens.buffer_info()[0],
            positions.buffer_info()[0],
            turns.buffer_info()[0],
            step.slots.buffer_info()[0],
            *(adapters.arguments if adapters else (None, None, None, 0)),
            num_wanted,
            wanted.buffer_info()[0],
            self._states.data_ptr(),
            logits.data_ptr(),
            self._work.data_ptr(),
        )
        states = self._states[:num_tokens, : self._hidden]
        for places_of, weight in self.adapters.heads(items) if adapters else ():
            logits[places_of, : self.vocab_size] = self._logits_of(states[wanted[places_of].tolist()], weight)
        return logits[:num_wanted, : self.vocab_size], states, step.pooled

    def _is_shared(self, items: Sequence[StepItem], step: _TokenArrays) -> bool:
        """Whether a step is work enough for all threads."""
        work = len(step.tokens) * self._num_weights + sum(step.positions) * self._width
        num_prompts = sum(len(item.tokens) > 1 for item in items)
        return work >= SHARED_FROM + max(0, num_prompts - 1) * SHARED_PER_PROMPT

    def _turns(self, items: Sequence[StepItem], are_long: Sequence[bool]) -> array[int]:
        """Rows of the cosines for each token: those of short sequences come first, as far as these go."""
        turns, original = array("q"), self.original_length
        for item, is_long in zip(items, are_long, strict=True):
            end = item.start + len(item.tokens)
            first_long = item.start if is_long else min(max(item.start, original), end)
            turns.extend(range(item.start, first_long))
            turns.extend(range(original + first_long, original + end))
        return turns

    def _put(self, places: list[int], vectors: torch.Tensor) -> None:
        """Let vectors (n, hidden) stand for tokens of the next step."""
        self._states[places] = functional.pad(vectors.float(), (0, self._states.shape[1] - self._hidden))

    def _logits_of(self, states: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
        """Logits by another output layer than the model's own."""
        variant = self._config.variant
        logits = functional.linear(states, head) * variant.logit_scale
        cap = variant.logit_softcap
        return cap * torch.tanh(logits / cap) if cap else logits

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Copy the first positions of a slot to another, in every layer."""
        size = self._prefix_bytes(length)
        self._memory[target, :size] = self._memory[source, :size]

    def trim(self, slot: int, length: int) -> None:
        """Give back the memory of a slot from a position on."""
        start = slot * self._slot_bytes
        self._pages.give_back([(start + self._prefix_bytes(length), start + self._slot_bytes)])

    def _prefix_bytes(self, length: int) -> int:
        return int(self._library.prefix_size(self._model, length)) * self._item_bytes

    def _rows_of(self, layer: int, product: int, begin: int, end: int) -> torch.Tensor:
        """Rows of a product's packed matrix, in float32."""
        owner = self._layers[layer]
        matrix = (owner.qkv, owner.output, owner.gate_up, owner.down)[product]
        rows = torch.empty(end - begin, inputs_of(self._config, product))
        self._library.unpack(matrix.bits, matrix.weights, rows.shape[1], begin, len(rows), rows.data_ptr())
        return rows

    def close(self) -> None:
        """End the threads. The decoder is not used after it."""
        self._stop()

    def _reserve(self, num_tokens: int) -> None:
        """Make room for the intermediate values of a step."""
        self._capacity = num_tokens
        self._states = torch.empty(num_tokens, self._padded(self._hidden))
        self._work = torch.empty(self._library.work_size(self._model, num_tokens, self._num_threads))

    def _padded(self, size: int) -> int:
        return -(-size // self._panel) * self._panel


def _compiled(formats: Formats) -> ctypes.CDLL:
    """The library with the step for some number formats; raises as `NativeDecoder.compile`."""
    macros = formats.macros()
    if macros is None:
        raise NativeUnavailableError(f"there is no step for {formats}")
    return load_library(*macros)


def _has_even_widths(config: DecoderConfig) -> bool:
    """Whether all matrices have an even number of inputs, as `floats.h` wants them."""
    experts = config.variant.experts
    widths = [config.hidden_size, config.num_attention_heads * config.head_dim, config.intermediate_size]
    widths += [experts.intermediate_size, experts.shared_size] if experts is not None else []
    return all(width % 2 == 0 for width in widths)


def _num_multiplied(weights: DecoderWeights) -> int:
    """Weights that a token is multiplied with."""
    experts = weights.config.variant.experts
    if experts is None:
        return weights.num_parameters()
    idle = 3 * weights.config.hidden_size * experts.intermediate_size * (experts.num_experts - experts.per_token)
    return weights.num_parameters() - idle * sum(experts.layers)
