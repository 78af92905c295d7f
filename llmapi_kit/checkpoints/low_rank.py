"""LoRA adapters as what they add to linear layers, to be computed beside a model's own weights.

So requests of many adapters can share a step and one copy of the weights. What is no such sum is refused: it can be
merged into a model of its own, see `llmapi_kit.checkpoints.adapters`. Knows nothing of runners. Blocking.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from llmapi_kit.checkpoints.adapter_files import LORA_WEIGHT, Adapter, mismatch, read_tensors
from llmapi_kit.errors import UnsupportedModelError


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter adds to a linear layer: ``up @ (down @ x + offset)``.

    Attributes:
        down: (rank, inputs).
        offset: (rank,); zeros but where the adapter has a bias.
        up: (outputs, rank), the adapter's scale included.
    """

    down: torch.Tensor
    offset: torch.Tensor
    up: torch.Tensor


def read_low_rank(adapter: Adapter) -> dict[str, LowRank]:
    """What an adapter adds to each linear layer, by the layer's name, in float32.

    Raises:
        UnsupportedModelError: it changes more than that.
        ModelLoadError: its weights are damaged, or are not what its configuration says.
    """
    tensors = read_tensors(adapter)
    if adapter.settings["use_dora"]:
        raise _only_merged(adapter, "decomposes weights (DoRA)")
    for name in tensors:
        if not LORA_WEIGHT.fullmatch(name):
            raise _only_merged(adapter, f"brings {name} as a whole")
        if "lora_embedding" in name:
            raise _only_merged(adapter, f"changes an embedding ({name})")
    layers = sorted({match[1] for name in tensors if (match := LORA_WEIGHT.fullmatch(name))})
    return {layer: _of_layer(adapter, layer, tensors) for layer in layers}


def _of_layer(adapter: Adapter, layer: str, tensors: Mapping[str, torch.Tensor]) -> LowRank:
    down, up = tensors.get(f"{layer}.lora_A.weight"), tensors.get(f"{layer}.lora_B.weight")
    if down is None or up is None:
        raise mismatch(adapter, f"{layer} has only one of lora_A and lora_B")
    rank = int(_of_pattern(adapter, "rank_pattern", layer, adapter.settings["r"]))
    if down.ndim != 2 or up.ndim != 2 or not len(down) == up.shape[1] == rank:
        shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
        raise mismatch(adapter, f"{layer} has weights of shapes {shapes}, and the rank {rank}")
    alpha = _of_pattern(adapter, "alpha_pattern", layer, adapter.settings["lora_alpha"])
    scale = alpha / (math.sqrt(rank) if adapter.settings["use_rslora"] else rank)
    down, up = down.float(), up.float() * scale
    offset = torch.zeros(rank)
    bias = tensors.get(f"{layer}.lora_B.bias")
    if bias is not None:  # one rank more, whose factor is always 1
        down = torch.cat((down, torch.zeros(1, down.shape[1])))
        up = torch.cat((up, bias.float()[:, None] * scale), dim=1)
        offset = torch.cat((offset, torch.ones(1)))
    return LowRank(down.contiguous(), offset, up.contiguous())


def _of_pattern(adapter: Adapter, pattern: str, layer: str, default: float) -> float:
    """A rank or scale that a layer has for itself; the first name that fits counts, as in PEFT."""
    for name, value in adapter.settings[pattern].items():
        if re.match(rf"(.*\.)?({name})$", layer):
            return float(value)
    return default


def _only_merged(adapter: Adapter, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"The adapter {adapter.name} {reason}, so it can't share a model with other adapters. Load it as a model of "
        f"its own, merged: kit.load(…, lora={adapter.name!r}, served_name=…)."
    )
