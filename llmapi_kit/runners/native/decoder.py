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
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
from torch.nn import functional

from llmapi_kit.checkpoints.decoder_config import DecoderConfig
from llmapi_kit.checkpoints.decoder_families import (
    EMBEDDING,
    EXPERT_PRODUCTS,
    HEAD,
    NORM,
    ROUTER,
    SHARED_GATE,
    SINKS,
    Activation,
)
from llmapi_kit.checkpoints.decoder_weights import DecoderWeights, layer_name
from llmapi_kit.checkpoints.integer_weights import IntegerFormat
from llmapi_kit.checkpoints.model_decoder import config_of, obstacle_to_decoder
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.image_memory import FIRST_IMAGE_ID
from llmapi_kit.runners.lazy_memory import LazyMemory
from llmapi_kit.runners.native.adapter_tables import AdapterTables, inputs_of
from llmapi_kit.runners.native.compiler import NativeUnavailableError, load_library
from llmapi_kit.runners.native.packed_weights import PackedWeights
from llmapi_kit.runners.native.structures import Expert, Layer, Model, declare

# Macros for what weights, keys and values are stored as
WEIGHTS: dict[torch.dtype, tuple[str, ...]] = {
    torch.float32: (),
    torch.bfloat16: ("WEIGHTS_BFLOAT16",),
    torch.float16: ("WEIGHTS_FLOAT16",),
}
ARITHMETIC = (torch.float32, torch.bfloat16)
MEMORY: dict[torch.dtype, tuple[str, ...]] = {
    torch.float32: (),
    torch.bfloat16: ("MEMORY_BFLOAT16",),
    torch.int8: ("MEMORY_INT8",),
}
# Multiplications in a step from which sharing it pays for waking the other threads, and how many more for each prompt
# in it but the first: several come in a burst, while the server's thread needs a core to read the rest
SHARED_FROM = 200_000_000
SHARED_PER_PROMPT = 80_000_000
GATES: dict[Activation, int] = {"silu": 0, "gelu_tanh": 1, "clamped_swiglu": 2}  # as model.h numbers them
_T = TypeVar("_T")
Rows = Callable[[Sequence[int]], torch.Tensor]
BIASES = ("qkv_bias", "output_bias", "gate_up_bias", "down_bias")  # of `Layer`, as `Variant.products`
GIVEN = -1  # in place of a token whose vector is there


@dataclass(frozen=True, slots=True)
class Formats:
    """The number formats of a step.

    Attributes:
        weights: of the matrices.
        arithmetic: float32, or bfloat16, in which products with weights in bfloat16 round their inputs where the
            processor has instructions for it; all else, and sums, is in float32.
        memory: of keys and values; None for that of arithmetic.
    """

    weights: torch.dtype | IntegerFormat
    arithmetic: torch.dtype
    memory: torch.dtype | None = None

    @property
    def stored(self) -> torch.dtype:
        """Of keys and values."""
        return self.memory or self.arithmetic

    def defines(self) -> tuple[str, ...] | None:
        """Macros to compile with; None where there is no step for these."""
        if self.arithmetic not in ARITHMETIC or self.stored not in MEMORY:
            return None
        memory = MEMORY[self.stored]
        if isinstance(self.weights, IntegerFormat):
            minima = ("HAS_MINIMA",) if self.weights.has_minima else ()
            return (f"WEIGHT_BITS={self.weights.bits}", f"GROUP={self.weights.group}", *minima, *memory)
        if self.weights not in WEIGHTS or (self.weights != torch.bfloat16 and self.arithmetic != torch.float32):
            return None
        rounds = ("ROUNDS_TO_BFLOAT16",) if self.arithmetic == torch.bfloat16 else ()
        return (*WEIGHTS[self.weights], *memory, *rounds)


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
        self._library = declare(load_library(*_defines(formats)))
        self._num_threads = num_threads
        self._num_weights = _num_multiplied(weights)
        self._width = 2 * config.num_hidden_layers * config.num_attention_heads * config.head_dim
        self._panel = int(self._library.panel_width())
        self.adapters = AdapterTables(config, int(self._library.vector_width()), self._rows_of)
        self._kept: list[Any] = []  # what the C structures point into
        self._config = config
        self.vocab_size = config.vocab_size
        self._hidden = config.hidden_size
        self.original_length = weights.original_length if weights.original_length < max_length else 0
        self._model = _model_of(config, weights.num_rotated, max_length)
        self._team = self._library.team_start(num_threads)
        if not self._team:
            raise MemoryError("no memory for the threads of a step")
        self._stop = weakref.finalize(self, self._library.team_stop, self._team)
        with ThreadPoolExecutor(num_threads, "llmapi_kit pack", torch.set_num_threads, (1,)) as threads:
            self._take_over(weights, max_length, threads)
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
        if Formats(model.dtype, dtype or model.dtype).defines() is None:
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
        load_library(*_defines(formats))

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
        pooled: list[tuple[StepItem, int]] = []
        tokens, positions, slots, wanted = array("q"), array("q"), array("q"), array("q")
        for item in items:
            num = len(item.tokens)
            if item.wants_mean:
                pooled.append((item, len(tokens)))
            tokens.extend(item.tokens)
            positions.extend(range(item.start, item.start + num))
            slots.extend((item.slot,) * num)
            if item.wants_logits:
                end = len(tokens)
                wanted.extend(range(end - num if item.wants_every else end - 1, end))
        num_tokens, num_wanted, num_seen = len(tokens), len(wanted), sum(positions)
        num_prompts = sum(len(item.tokens) > 1 for item in items)
        work = num_tokens * self._num_weights + num_seen * self._width
        image_ids: dict[int, int] = {}  # by their index in the row
        if rows is not None and max(tokens) >= FIRST_IMAGE_ID:
            image_ids = {i: token for i, token in enumerate(tokens) if token >= FIRST_IMAGE_ID}
            for index in image_ids:
                tokens[index] = GIVEN
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
            self._num_threads if work >= SHARED_FROM + max(0, num_prompts - 1) * SHARED_PER_PROMPT else 1,
            num_tokens,
            tokens.buffer_info()[0],
            positions.buffer_info()[0],
            turns.buffer_info()[0],
            slots.buffer_info()[0],
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
        return logits[:num_wanted, : self.vocab_size], states, pooled

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

    def _take_over(self, weights: DecoderWeights, max_length: int, threads: Executor) -> None:
        config = weights.config
        rotations = [self._rotation(*rotary) for rotary in self._rotaries(weights, max_length)]
        self._model.norm = self._norm(weights, NORM)
        layers = (Layer * config.num_hidden_layers)()
        for index, layer in enumerate(layers):
            self._take_vectors(weights, index, layer)
            if (rotation := config.variant.rotation(index)) >= 0:
                layer.cosines, layer.sines = rotations[rotation]
            layer.window = config.windows[index]
            layer.scaling = config.variant.attention_scale or config.head_dim**-0.5
            layer.inner = _inner_size(config, index)
        self._model.layers = self._keep(layers, ctypes.addressof(layers))
        self._layers = layers
        self._pack(weights, layers, threads)

    def _take_vectors(self, weights: DecoderWeights, index: int, layer: Layer) -> None:
        """Take over what is no packed matrix."""
        config, variant = weights.config, weights.config.variant
        for place in fields(variant.norms):
            if name := getattr(variant.norms, place.name):
                setattr(layer, place.name, self._norm(weights, layer_name(index, f"{name}.weight")))
        if config.has_qk_norm:
            layer.query_norm, layer.key_norm = (
                self._norm(weights, layer_name(index, f"self_attn.{name}_norm.weight")) for name in "qk"
            )
        for field, parts in zip(BIASES, variant.products, strict=True):
            setattr(layer, field, self._bias(weights, index, parts))
        if variant.has_sinks:
            layer.sinks = self._floats(weights.take(layer_name(index, SINKS)))
        if variant.has_experts(index):
            names = [layer_name(index, f"{part}.weight") for part in (ROUTER, SHARED_GATE)]
            layer.router = self._floats(torch.cat([weights.take(name) for name in names if name in weights.tensors]))
            layer.router_bias = self._bias(weights, index, [ROUTER])

    def _bias(self, weights: DecoderWeights, index: int, parts: Sequence[str]) -> int | None:
        """The bias of a product, in whole panels; None where it has none."""
        names = [layer_name(index, f"{part}.bias") for part in parts]
        if names[0] not in weights.tensors:
            return None
        return self._floats(self._pad(torch.cat([weights.take(name) for name in names])))

    def _pack(self, weights: DecoderWeights, layers: ctypes.Array[Layer], threads: Executor) -> None:
        """Take over the matrices."""
        variant = weights.config.variant
        groups = [group for index in range(len(layers)) for group in _matrices(weights.config, index)]
        groups += [[EMBEDDING]] if weights.is_tied else [[HEAD], [EMBEDDING]]
        packed = PackedWeights(self._library, self._team, weights, groups, threads)
        matrices = iter(self._keep(packed, packed.matrices))
        for index, layer in enumerate(layers):
            layer.qkv, layer.output = next(matrices), next(matrices)
            if layer.inner:
                layer.gate_up, layer.down = next(matrices), next(matrices)
            if variant.experts is not None and variant.has_experts(index):
                table = (Expert * variant.experts.num_experts)()
                for number, expert in enumerate(table):
                    expert.gate_up, expert.down = next(matrices), next(matrices)
                    expert.gate_up_bias, expert.down_bias = (
                        self._bias(weights, index, parts) for parts in _parts_of_expert(number)
                    )
                layer.experts = self._keep(table, ctypes.addressof(table))
        self._model.head = next(matrices)
        self._model.embedding = next(matrices, self._model.head)

    def _rotaries(self, weights: DecoderWeights, max_length: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Cosines and sines, as `_turns` finds them."""
        if not self.original_length:
            return weights.rotaries(max_length)
        short, long = weights.rotaries(self.original_length), weights.rotaries(max_length, is_long=True)
        return [(torch.cat((a, c)), torch.cat((b, d))) for (a, b), (c, d) in zip(short, long, strict=True)]

    def _rotation(self, cosines: torch.Tensor, sines: torch.Tensor) -> tuple[int, int]:
        half = cosines.shape[-1] // 2
        return self._floats(cosines), self._floats(torch.cat((-sines[:, :half], sines[:, half:]), dim=-1))

    def _norm(self, weights: DecoderWeights, name: str) -> int:
        return self._floats(weights.take(name).float() + weights.config.variant.norm_offset)

    def _pad(self, rows: torch.Tensor) -> torch.Tensor:
        missing = self._padded(len(rows)) - len(rows)
        return functional.pad(rows.detach(), (0, 0) * (rows.ndim - 1) + (0, missing))

    def _floats(self, values: torch.Tensor) -> int:
        kept = values.detach().float().contiguous().clone()
        return self._keep(kept, kept.data_ptr())

    def _keep(self, owner: Any, address: _T) -> _T:
        self._kept.append(owner)
        return address


def _defines(formats: Formats) -> tuple[str, ...]:
    defines = formats.defines()
    if defines is None:
        raise NativeUnavailableError(f"there is none for {formats}")
    return defines


def _model_of(config: DecoderConfig, num_rotated: int, max_length: int) -> Model:
    """What model.h has of a configuration."""
    variant, experts = config.variant, config.variant.experts
    model = Model(
        num_layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        inner=max(_inner_size(config, index) for index in range(config.num_hidden_layers)),
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocab=config.vocab_size,
        max_length=max_length,
        rotated=num_rotated,
        activation=GATES[variant.activation],
        norms_all_heads=variant.norms_all_heads,
        epsilon=config.rms_norm_eps,
        embedding_scale=variant.embedding_scale,
        residual_multiplier=variant.residual_multiplier,
        attention_cap=variant.attention_softcap,
        logit_scale=variant.logit_scale,
        logit_cap=variant.logit_softcap,
        swiglu_alpha=variant.swiglu_alpha,
        swiglu_limit=variant.swiglu_limit,
    )
    if experts is not None:
        model.num_experts, model.experts_per_token = experts.num_experts, experts.per_token
        model.expert_inner, model.renormalises = experts.intermediate_size, experts.renormalises
        model.has_shared_gate = experts.shared_size > 0
    return model


def _inner_size(config: DecoderConfig, layer: int) -> int:
    """Width of the feed-forward that all tokens of a layer go through; 0 where there is none."""
    experts = config.variant.experts
    return experts.shared_size if experts is not None and experts.layers[layer] else config.intermediate_size


def _has_even_widths(config: DecoderConfig) -> bool:
    """Whether all matrices have an even number of inputs, as `floats.h` wants them."""
    experts = config.variant.experts
    widths = [config.hidden_size, config.num_attention_heads * config.head_dim, config.intermediate_size]
    widths += [experts.intermediate_size, experts.shared_size] if experts is not None else []
    return all(width % 2 == 0 for width in widths)


def _matrices(config: DecoderConfig, index: int) -> list[list[str]]:
    """A layer's matrices as they are packed, those of a product together."""
    variant, experts = config.variant, config.variant.experts
    groups = [list(parts) for parts in variant.products]
    if experts is not None and experts.layers[index]:
        shared = [[part.replace("mlp.", "mlp.shared_expert.") for part in parts] for parts in groups[2:]]
        groups[2:] = shared if experts.shared_size else []
        for expert in range(experts.num_experts):
            groups += _parts_of_expert(expert)
    return [[layer_name(index, f"{part}.weight") for part in group] for group in groups]


def _parts_of_expert(number: int) -> list[list[str]]:
    """An expert's matrices, those of a product together."""
    return [[f"mlp.experts.{number}.{part}" for part in parts] for parts in EXPERT_PRODUCTS]


def _num_multiplied(weights: DecoderWeights) -> int:
    """Weights that a token is multiplied with."""
    experts = weights.config.variant.experts
    if experts is None:
        return weights.num_parameters()
    idle = 3 * weights.config.hidden_size * experts.intermediate_size * (experts.num_experts - experts.per_token)
    return weights.num_parameters() - idle * sum(experts.layers)
