"""LoRA adapters as `decoder.c` reads them: tables of pointers, made once for each adapter.

Knows the layout that C expects and who owns the memory behind it. Engine thread only.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from typing import Any, ClassVar

from llmapi_kit.checkpoints.decoder_config import DecoderConfig
from llmapi_kit.checkpoints.decoder_families import PRODUCTS, layer_shapes
from llmapi_kit.checkpoints.low_rank import Changes
from llmapi_kit.runners.adapter_places import check_places, check_sums, fused_places
from llmapi_kit.runners.base import StepItem


class _LowRank(ctypes.Structure):
    """`LowRank` of decoder.c."""

    _fields_: ClassVar = [
        *((name, ctypes.c_void_p) for name in ("down", "offset", "up")),
        *((name, ctypes.c_int64) for name in ("rank", "inputs", "first", "size")),
    ]


class _Change(ctypes.Structure):
    """`Change` of decoder.c."""

    _fields_: ClassVar = [("parts", ctypes.c_void_p), ("num_parts", ctypes.c_int64)]


class AdapterTables:
    """The adapters of one decoder.

    Args:
        config: of the decoder.
    """

    def __init__(self, config: DecoderConfig) -> None:
        self._num_layers = config.num_hidden_layers
        self._name = config.architecture
        self._places = fused_places(_sizes(config), config.variant.products)
        self._tables: dict[int, int] = {}  # addresses
        self._kept: dict[int, list[Any]] = {}  # what they point into

    def add(self, adapter: int, changes: Changes) -> None:
        """Compute with an adapter from now on.

        Raises:
            ModelLoadError: it was made for another model.
            UnsupportedModelError: it does more than add to layers.
        """
        sums = check_sums(changes, self._name)
        check_places(sums, self._places, self._name)
        parts: dict[Any, list[_LowRank]] = {}
        kept: list[Any] = []
        for name, change in sums.items():
            place = self._places[name]
            tensors = [each.float().contiguous() for each in (change.down, change.offset, change.up.t())]
            kept.extend(tensors)
            pointers = [each.data_ptr() for each in tensors]
            part = _LowRank(*pointers, len(change.down), place.inputs, place.first, place.outputs)
            parts.setdefault(place.product, []).append(part)
        table = (_Change * (self._num_layers * len(PRODUCTS)))()
        for (layer, index), found in parts.items():
            rows = (_LowRank * len(found))(*found)
            kept.append(rows)
            table[layer * len(PRODUCTS) + index] = _Change(ctypes.addressof(rows), len(found))
        self._tables[adapter], self._kept[adapter] = ctypes.addressof(table), [table, *kept]

    def remove(self, adapter: int) -> None:
        """Let go of an adapter."""
        del self._tables[adapter], self._kept[adapter]

    def of_tokens(self, items: Sequence[StepItem]) -> array[int] | None:
        """The table's address for each token of a step, 0 for none; None where no token has one."""
        if not any(item.adapter for item in items):
            return None
        addresses = array("Q")
        for item in items:
            address = self._tables[item.adapter] if item.adapter else 0
            addresses.extend((address,) * len(item.tokens))
        return addresses


def _sizes(config: DecoderConfig) -> list[dict[str, tuple[int, int]]]:
    """Outputs and inputs of each matrix of each layer."""
    layers = [layer_shapes(config, index) for index in range(config.num_hidden_layers)]
    return [
        {name.removesuffix(".weight"): (shape[0], shape[1]) for name, shape in layer.items() if len(shape) == 2}
        for layer in layers
    ]


def address_of(addresses: array[int] | None) -> int | None:
    """Where a list of addresses is; None where there is none."""
    return None if addresses is None else addresses.buffer_info()[0]
