"""A model's weights as `model.h` lays them out, and the memory that they lie in.

Knows what belongs where in a model, nothing of steps. Made while a model is loaded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import fields
from typing import Any, TypeVar

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
from llmapi_kit.runners.native.packed_weights import PackedWeights
from llmapi_kit.runners.native.structures import Expert, Layer, Model

GATES: dict[Activation, int] = {"silu": 0, "gelu_tanh": 1, "clamped_swiglu": 2}  # as model.h numbers them
BIASES = ("qkv_bias", "output_bias", "gate_up_bias", "down_bias")  # of `Layer`, as `Variant.products`
_T = TypeVar("_T")


class PackedModel:
    """Takes over the weights of a model, one tensor after the other.

    Args:
        library: of `structures.declare`.
        team: of `team_start`.
        weights: of the model; each tensor leaves them as it is packed.
        max_length: positions a slot.
        original_length: see `NativeDecoder`.
        threads: see `PackedWeights`.

    Attributes:
        structure: what `step` of decoder.c is given; points into memory that this object owns.
        layers: its layers.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        team: int,
        weights: DecoderWeights,
        *,
        max_length: int,
        original_length: int,
        threads: Executor,
    ) -> None:
        self._library, self._team = library, team
        self._panel = int(library.panel_width())
        self._kept: list[Any] = []  # what the C structures point into
        config = weights.config
        self.structure = _model_of(config, weights.num_rotated, max_length)
        rotations = [self._rotation(*rotary) for rotary in _rotaries(weights, max_length, original_length)]
        self.structure.norm = self._norm(weights, NORM)
        layers = (Layer * config.num_hidden_layers)()
        for index, layer in enumerate(layers):
            self._take_vectors(weights, index, layer)
            if (rotation := config.variant.rotation(index)) >= 0:
                layer.cosines, layer.sines = rotations[rotation]
            layer.window = config.windows[index]
            layer.scaling = config.variant.attention_scale or config.head_dim**-0.5
            layer.inner = _inner_size(config, index)
        self.structure.layers = self._keep(layers, ctypes.addressof(layers))
        self.layers = layers
        self._pack(weights, layers, threads)

    def _take_vectors(self, weights: DecoderWeights, index: int, layer: Layer) -> None:
        """Take over what is not a packed matrix."""
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
        self.structure.head = next(matrices)
        self.structure.embedding = next(matrices, self.structure.head)

    def _rotation(self, cosines: torch.Tensor, sines: torch.Tensor) -> tuple[int, int]:
        half = cosines.shape[-1] // 2
        return self._floats(cosines), self._floats(torch.cat((-sines[:, :half], sines[:, half:]), dim=-1))

    def _norm(self, weights: DecoderWeights, name: str) -> int:
        return self._floats(weights.take(name).float() + weights.config.variant.norm_offset)

    def _pad(self, rows: torch.Tensor) -> torch.Tensor:
        missing = -len(rows) % self._panel
        return functional.pad(rows.detach(), (0, 0) * (rows.ndim - 1) + (0, missing))

    def _floats(self, values: torch.Tensor) -> int:
        kept = values.detach().float().contiguous().clone()
        return self._keep(kept, kept.data_ptr())

    def _keep(self, owner: Any, address: _T) -> _T:
        self._kept.append(owner)
        return address


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


def _rotaries(
    weights: DecoderWeights, max_length: int, original_length: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Cosines and sines: those of short sequences first, where long ones have others."""
    if not original_length:
        return weights.rotaries(max_length)
    short, long = weights.rotaries(original_length), weights.rotaries(max_length, is_long=True)
    return [(torch.cat((a, c)), torch.cat((b, d))) for (a, b), (c, d) in zip(short, long, strict=True)]


def _inner_size(config: DecoderConfig, layer: int) -> int:
    """Width of the feed-forward that all tokens of a layer go through; 0 where there is none."""
    experts = config.variant.experts
    return experts.shared_size if experts is not None and experts.layers[layer] else config.intermediate_size


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
