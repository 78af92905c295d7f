"""Adapters as `decoder.c` reads them: tables of pointers, made once for each adapter.

Knows the layout that C expects and who owns the memory behind it. Engine thread only.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch.nn import functional

from llmapi_kit.checkpoints.decoder_config import DecoderConfig
from llmapi_kit.checkpoints.decoder_families import EMBEDDING, HEAD, PRODUCTS, layer_shapes
from llmapi_kit.checkpoints.low_rank import Changes, LowRank, Replacement
from llmapi_kit.runners.adapter_places import Place, check_places, check_replacements, fused_places
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.image_memory import FIRST_IMAGE_ID
from llmapi_kit.runners.native.packed_weights import untouched

BATCH = 4  # tokens, as adapters.h has it
BLOCK = 1 << 20  # weights that are unpacked at once
# Some rows of the matrix of a layer's product, in float32: layer, product, from row, to row
Rows = Callable[[int, int, int, int], torch.Tensor]
Found = list[tuple[Place, LowRank]]


class _Part(ctypes.Structure):
    """`Part` of adapters.h."""

    _fields_: ClassVar = [
        *((name, ctypes.c_void_p) for name in ("up", "gain")),
        *((name, ctypes.c_int64) for name in ("rank", "at", "first", "size")),
    ]


class _Change(ctypes.Structure):
    """`Change` of adapters.h."""

    _fields_: ClassVar = [
        *((name, ctypes.c_void_p) for name in ("down", "offset", "parts")),
        *((name, ctypes.c_int64) for name in ("num_parts", "inputs", "ranks", "scales")),
    ]


@dataclass(frozen=True, slots=True)
class TokenAdapters:
    """Which adapter the tokens of a step have.

    Attributes:
        addresses: of each token's table; 0 for none.
        order: the tokens, those of an adapter together.
        batches: where in `order` those begin that are computed together, and its end.
    """

    addresses: array[int]
    order: array[int]
    batches: array[int]

    @property
    def arguments(self) -> tuple[int, int, int, int]:
        """As `step` of decoder.c takes them; valid as long as this is there."""
        addresses, order, batches = (each.buffer_info()[0] for each in (self.addresses, self.order, self.batches))
        return addresses, order, batches, len(self.batches) - 1


class AdapterTables:
    """The adapters of one decoder.

    Args:
        config: of the decoder.
        vector_width: floats in one of the step's vectors.
        rows: the decoder's weights, of which DoRA changes the length.
    """

    def __init__(self, config: DecoderConfig, vector_width: int, rows: Rows) -> None:
        self._num_layers = config.num_hidden_layers
        self._name = config.architecture
        self._places = fused_places(_sizes(config), config.variant.products)
        self._vector_width = vector_width
        self._rows = rows
        self._shapes = dict.fromkeys((EMBEDDING, HEAD), (config.vocab_size, config.hidden_size))
        self._replaced: dict[tuple[int, str], torch.Tensor] = {}  # by adapter and parameter
        self._tables: dict[int, int] = {}  # addresses
        self._kept: dict[int, list[Any]] = {}  # what they point into

    def add(self, adapter: int, changes: Changes) -> None:
        """Compute with an adapter from now on.

        Raises:
            ModelLoadError: it was made for another model.
            UnsupportedModelError: it replaces what can't be replaced for some tokens alone.
        """
        sums = {name: change for name, change in changes.items() if isinstance(change, LowRank)}
        whole = {name: change for name, change in changes.items() if isinstance(change, Replacement)}
        check_places(sums, self._places, self._name)
        check_replacements(whole, self._shapes, self._name)
        found: dict[tuple[int, int], Found] = {}
        for name, change in sums.items():
            key = cast(tuple[int, int], self._places[name].product)
            found.setdefault(key, []).append((self._places[name], change))
        table = (_Change * (self._num_layers * len(PRODUCTS)))()
        kept: list[Any] = [table]
        tensors: list[torch.Tensor] = []  # as a step reads them
        pointers: list[tuple[ctypes.Structure, str]] = []  # to each of these
        for (layer, product), parts in sorted(found.items()):
            own = table[layer * len(PRODUCTS) + product]
            kept.append(self._fill(own, layer, product, parts, tensors, pointers))
        kept.append(_laid_out(tensors, pointers))
        self._tables[adapter], self._kept[adapter] = ctypes.addressof(table), kept
        self._replaced |= {(adapter, name): change.weight.float() for name, change in whole.items()}

    def _fill(
        self,
        change: _Change,
        layer: int,
        product: int,
        found: Found,
        tensors: list[torch.Tensor],
        pointers: list[tuple[ctypes.Structure, str]],
    ) -> ctypes.Array[_Part]:
        """Say what an adapter changes of a product; returns its parts, to which this points."""
        found.sort(key=lambda each: each[0].first)

        def point(owner: ctypes.Structure, name: str, values: torch.Tensor) -> None:
            tensors.append(values.contiguous())
            pointers.append((owner, name))

        down = self._in_vectors(torch.cat([each.down for _, each in found]).float())
        point(change, "offset", self._in_vectors(torch.cat([each.offset for _, each in found]).float()))
        point(change, "down", down.t())
        parts = (_Part * len(found))()
        change.parts, change.num_parts = ctypes.addressof(parts), len(found)
        change.inputs, change.ranks = found[0][0].inputs, len(down)
        at = 0
        for part, (place, own) in zip(parts, found, strict=True):
            up = own.up.float()
            if own.magnitude is not None:
                factors = own.magnitude / self._lengths(layer, product, place, own)
                up = up * factors[:, None]
                point(part, "gain", factors - 1)
                change.scales = True
            point(part, "up", self._in_vectors(up).view(-1, self._vector_width, own.rank).transpose(1, 2))
            part.rank, part.at, part.first, part.size = own.rank, at, place.first, place.outputs
            at += own.rank
        return parts

    def _in_vectors(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows with zeros at the end, so that they are whole vectors."""
        missing = -len(rows) % self._vector_width
        return functional.pad(rows, (*(0, 0) * (rows.ndim - 1), 0, missing))

    def _lengths(self, layer: int, product: int, place: Place, change: LowRank) -> torch.Tensor:
        """Of each row (outputs,) of a matrix, with what an adapter adds."""
        step = max(1, BLOCK // place.inputs)
        lengths = []
        for begin in range(0, place.outputs, step):
            end = min(begin + step, place.outputs)
            own = self._rows(layer, product, place.first + begin, place.first + end)
            lengths.append(torch.linalg.vector_norm(own + change.up[begin:end] @ change.down, dim=1))
        return torch.cat(lengths)

    def remove(self, adapter: int) -> None:
        """Let go of an adapter."""
        del self._tables[adapter], self._kept[adapter]
        self._replaced = {key: weight for key, weight in self._replaced.items() if key[0] != adapter}

    def of_tokens(self, items: Sequence[StepItem]) -> TokenAdapters | None:
        """The adapter of each token of a step; None where no token has one."""
        if not any(item.adapter for item in items):
            return None
        addresses, order, batches = array("Q"), array("q"), array("q")
        spans: dict[int, list[range]] = {}  # of tokens, by address
        for item in items:
            address = self._tables[item.adapter] if item.adapter else 0
            spans.setdefault(address, []).append(range(len(addresses), len(addresses) + len(item.tokens)))
            addresses.extend((address,) * len(item.tokens))
        for own in spans.values():
            begin = len(order)
            for span in own:
                order.extend(span)
            batches.extend(range(begin, len(order), BATCH))
        batches.append(len(order))
        return TokenAdapters(addresses, order, batches)

    def embedded(self, items: Sequence[StepItem]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Tokens of a step, by index, whose adapters bring an embedding, and what stands for them: (n, hidden)."""
        begin = 0
        for item in items:
            if (weight := self._replaced.get((item.adapter, EMBEDDING))) is not None:
                places = [at for at, token in enumerate(item.tokens) if token < FIRST_IMAGE_ID]
                yield [begin + at for at in places], weight[[item.tokens[at] for at in places]]
            begin += len(item.tokens)

    def heads(self, items: Sequence[StepItem]) -> Iterator[tuple[slice, torch.Tensor]]:
        """Rows of a step's logits whose adapters bring an output layer, and its weight (vocab, hidden)."""
        begin = 0
        for item in items:
            num = (len(item.tokens) if item.wants_every else 1) if item.wants_logits else 0
            if num and (weight := self._replaced.get((item.adapter, HEAD))) is not None:
                yield slice(begin, begin + num), weight
            begin += num


def _laid_out(tensors: Sequence[torch.Tensor], pointers: Sequence[tuple[ctypes.Structure, str]]) -> Any:
    """Copy tensors into one memory, one after the other, and point to each; returns the memory."""
    memory = untouched((sum(each.numel() for each in tensors), 1), np.dtype("f4"))
    at = 0
    for values, (owner, name) in zip(tensors, pointers, strict=True):
        setattr(owner, name, memory.ctypes.data + at * values.itemsize)
        memory[at : at + values.numel(), 0] = values.view(-1).numpy()
        at += values.numel()
    return memory


def _sizes(config: DecoderConfig) -> list[dict[str, tuple[int, int]]]:
    """Outputs and inputs of each matrix of each layer."""
    layers = [layer_shapes(config, index) for index in range(config.num_hidden_layers)]
    return [
        {name.removesuffix(".weight"): (shape[0], shape[1]) for name, shape in layer.items() if len(shape) == 2}
        for layer in layers
    ]


def inputs_of(config: DecoderConfig, product: int) -> int:
    """Inputs of a product, by its index in `PRODUCTS`."""
    heads = config.num_attention_heads * config.head_dim
    return (config.hidden_size, heads, config.hidden_size, config.intermediate_size)[product]
