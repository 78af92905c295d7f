"""LoRA adapters as what they change in a model's layers, to be computed beside its own weights.

So requests of many adapters can share a step and one copy of the weights: what is changed is changed for each token by
itself. What can't be is refused: it can be merged into a model of its own, see `llmapi_kit.checkpoints.adapters`. Knows
nothing of runners. Blocking.

Source: Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation", https://arxiv.org/abs/2402.09353.
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
    """What an adapter adds to a linear layer: ``up @ (down @ x + offset)``; with DoRA, how long rows are then.

    Attributes:
        down: (rank, inputs).
        offset: (rank,); zeros but where the adapter has a bias.
        up: (outputs, rank), the adapter's scale included.
        magnitude: (outputs,) the norm that each row of the weight with ``up @ down`` added is brought to; None for DoRA
            being off.
    """

    down: torch.Tensor
    offset: torch.Tensor
    up: torch.Tensor
    magnitude: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        """Of what is added."""
        return len(self.down)

    @property
    def num_bytes(self) -> int:
        """Size in memory."""
        tensors = (self.down, self.offset, self.up, self.magnitude)
        return sum(each.nbytes for each in tensors if each is not None)


@dataclass(frozen=True, slots=True)
class Replacement:
    """A parameter that was trained whole: of an embedding, a norm or the output layer.

    Attributes:
        weight: that takes the place of the model's own.
    """

    weight: torch.Tensor

    @property
    def num_bytes(self) -> int:
        """Size in memory."""
        return self.weight.nbytes


# By the layer's name; a replacement by the parameter's
Changes = Mapping[str, LowRank | Replacement]


def read_low_rank(adapter: Adapter) -> dict[str, LowRank | Replacement]:
    """What an adapter changes, in float32; see `Changes`.

    Raises:
        UnsupportedModelError: it changes more than can be changed for each token by itself.
        ModelLoadError: its weights are damaged, or are not what its configuration says.
    """
    tensors = read_tensors(adapter)
    for name in tensors:
        if "lora_embedding" in name:
            raise _only_merged(adapter, f"changes an embedding ({name})")
    if adapter.is_tied:
        raise _only_merged(adapter, "ties an embedding that it trained to the output layer")
    layers = sorted({match[1] for name in tensors if (match := LORA_WEIGHT.fullmatch(name))})
    changes: dict[str, LowRank | Replacement] = {layer: _of_layer(adapter, layer, tensors) for layer in layers}
    whole = {name: tensor.float() for name, tensor in tensors.items() if not LORA_WEIGHT.fullmatch(name)}
    for name in whole:
        if name.rpartition(".")[0] in changes:
            raise _only_merged(adapter, f"brings {name} as a whole, and changes it besides")
    return changes | {name: Replacement(tensor) for name, tensor in whole.items()}


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
    return LowRank(down.contiguous(), offset, up.contiguous(), _magnitude(adapter, layer, tensors, len(up)))


def _magnitude(
    adapter: Adapter, layer: str, tensors: Mapping[str, torch.Tensor], num_outputs: int
) -> torch.Tensor | None:
    """What DoRA brings the rows of a layer's weight to; None where it is off."""
    if not adapter.settings["use_dora"]:
        return None
    if f"{layer}.lora_B.bias" in tensors:
        raise _only_merged(adapter, f"has both DoRA and a bias of its own in {layer}")
    for name in (f"{layer}.lora_magnitude_vector.weight", f"{layer}.lora_magnitude_vector"):
        if name in tensors and tensors[name].numel() == num_outputs:
            return tensors[name].float().flatten()
    raise mismatch(adapter, f"{layer} has no lora_magnitude_vector of {num_outputs:,} values, which DoRA needs")


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
