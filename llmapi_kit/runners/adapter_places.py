"""Where the outputs of a layer that adapters change stand among those of the products that a runner computes.

A runner that computes queries, keys and values in one product has one place for the three. Knows no tensors.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmapi_kit.checkpoints.decoder_families import PRODUCTS
from llmapi_kit.errors import ModelLoadError, UnsupportedModelError

if TYPE_CHECKING:
    from llmapi_kit.checkpoints.low_rank import LowRank, Replacement


@dataclass(frozen=True, slots=True)
class Place:
    """One layer's share of a product.

    Attributes:
        product: which; the same for all that share it.
        first: of its outputs.
        outputs: how many it has.
        inputs: of the product.
        width: outputs of the product.
    """

    product: Hashable
    first: int
    outputs: int
    inputs: int
    width: int


def fused_places(
    sizes: Sequence[Mapping[str, tuple[int, int]]], products: Sequence[Sequence[str]] = PRODUCTS
) -> dict[str, Place]:
    """Places in a decoder that computes several matrices in one product, each known as (layer, index).

    Args:
        sizes: of each layer, by part of it, such as ``mlp.down_proj``: (outputs, inputs).
        products: the parts that are one product; those that a layer does not have are not places in it.
    """
    places: dict[str, Place] = {}
    for layer, own in enumerate(sizes):
        for index, names in enumerate(products):
            parts = [name for name in names if name in own]
            width, first = sum(own[part][0] for part in parts), 0
            for part in parts:
                outputs, inputs = own[part]
                places[f"model.layers.{layer}.{part}"] = Place((layer, index), first, outputs, inputs, width)
                first += outputs
    return places


def module_places(model: Any) -> dict[str, Place]:
    """Places in a model of transformers whose modules compute for themselves, each known by its name.

    Only layers that see every token of a step, in its order: no experts, and not the output layer.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    places: dict[str, Place] = {}
    for name, module in model.named_modules():
        if module is head or "expert" in name:
            continue
        if isinstance(module, torch.nn.Linear):
            places[name] = Place(name, 0, module.out_features, module.in_features, module.out_features)
        elif isinstance(module, Conv1D):
            places[name] = Place(name, 0, module.nf, module.nx, module.nf)
    return places


def check_replacements(
    replacements: Mapping[str, Replacement], shapes: Mapping[str, tuple[int, ...]], model: str
) -> None:
    """Raise unless all that an adapter brings as a whole can take its place for some tokens of a step.

    Args:
        replacements: by the parameter's name.
        shapes: of the parameters that can be replaced.
        model: for messages.

    Raises:
        UnsupportedModelError: it brings another parameter.
        ModelLoadError: it was made for another model, or for another vocabulary.
    """
    for name, replacement in replacements.items():
        if name not in shapes:
            raise UnsupportedModelError(
                f"The adapter brings {name} as a whole, which can't be another one for each request in {model}; here "
                f"{', '.join(sorted(shapes)[:4])} can. Load it merged: kit.load(…, lora='…', served_name=…)."
            )
        if tuple(replacement.weight.shape) != shapes[name]:
            raise ModelLoadError(
                f"The adapter was made for another model, or has other tokens: its {name} is "
                f"{tuple(replacement.weight.shape)}, and in {model} it is {shapes[name]}. With tokens of its own, load "
                "it merged: kit.load(…, lora='…', served_name=…)."
            )


def check_places(changes: Mapping[str, LowRank], places: Mapping[str, Place], model: str) -> None:
    """Raise `ModelLoadError` unless every layer that an adapter changes is there, and as large as it takes it for."""
    for name, change in changes.items():
        place = places.get(name)
        if place is None:
            raise ModelLoadError(
                f"The adapter changes {name}, which {model} does not have among the layers that adapters can share. "
                "Where it is an adapter of this model, load it merged: kit.load(…, lora='…')."
            )
        theirs = change.up.shape[0], change.down.shape[1]
        if theirs != (place.outputs, place.inputs):
            raise ModelLoadError(
                f"The adapter was made for another model: it takes {name} for {theirs[0]} x {theirs[1]}, and in "
                f"{model} it is {place.outputs} x {place.inputs}."
            )
