"""A model of transformers as a decoder that the step in C computes: whether it is one, and its weights.

What a model computes is told by its class, its configuration and its modules; that it has exactly the tensors that
this asks for is the proof that nothing was overlooked. Part of loading.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from llmapi_kit.checkpoints.decoder_config import DecoderConfig
from llmapi_kit.checkpoints.decoder_families import (
    ACTIVATIONS,
    FAMILIES,
    HEAD,
    Experts,
    Family,
    Variant,
    scalars,
)
from llmapi_kit.checkpoints.decoder_weights import DecoderWeights, tensor_shapes
from llmapi_kit.checkpoints.expert_tensors import apart
from llmapi_kit.checkpoints.integer_weights import IntegerMatrix
from llmapi_kit.checkpoints.rope_config import NUMBERS
from llmapi_kit.checkpoints.rotation import Rotation

# Rotary embeddings whose frequencies are the same at each length, or up to one: see `constant_length`
KNOWN_ROPES = {*NUMBERS, "dynamic"}


def is_decoder(model: Any) -> bool:
    """Whether a model of transformers computes what a `DecoderConfig` can say, and nothing else.

    Some do so only up to the length that `architecture.constant_length` tells; see `is_for_any_length`.
    """
    return not obstacle_to_decoder(model)


def is_for_any_length(model: Any) -> bool:
    """Whether `rotations_of` tells how such a model computes beyond `architecture.constant_length`."""
    rotary = model.model.rotary_emb
    return bool(hasattr(rotary, "inv_freq") and rotary.rope_type == "longrope")


def obstacle_to_decoder(model: Any) -> str:
    """What a model has that a `DecoderConfig` can't say, as a clause; empty where there is nothing."""
    name = type(model).__name__
    family = FAMILIES.get(name)
    if family is None:
        return f"{name} is a family that it does not know"
    if hasattr(model, "hf_quantizer"):
        return "the weights come quantized in a form that it does not know"
    if model.lm_head.bias is not None:
        return "its output layer has a bias"
    if unknown := {each.get("rope_type", "default") for each in _ropes(model.config)} - KNOWN_ROPES:
        return f"its rotary embedding is scaled by {min(unknown)!r}"
    activation = getattr(model.config, family.activation or "", "silu")
    if activation not in ACTIVATIONS:
        return f"{family.activation} is {activation!r}"
    if getattr(model.config, "clip_qkv", None) is not None:  # of OLMoE
        return "clip_qkv cuts off its queries, keys and values"
    if not all(getattr(layer.self_attn, "is_causal", True) for layer in model.model.layers):
        return "its attention looks both ways"
    return _obstacle_in_tensors(model)


def _obstacle_in_tensors(model: Any) -> str:
    tensors, expected = dict(_tensors(model)), dict(tensor_shapes(config_of(model)))
    # Norms are float32 in some families whatever the rest is
    if not all(tensor.dtype == model.dtype for tensor in tensors.values() if tensor.ndim == 2):
        return "its matrices are of several types"
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    odd = next((name for name in {**shapes, **expected} if shapes.get(name) != expected.get(name)), None)
    return "" if odd is None else f"its tensor {odd} is not what its family has"


def weights_of_model(model: Any) -> DecoderWeights:
    """The weights of a model of transformers, which has none after it and can't run by itself any more.

    Args:
        model: one on the CPU that `is_decoder`.
    """
    tensors: dict[str, torch.Tensor | IntegerMatrix] = dict(_tensors(model))
    weights = DecoderWeights(config_of(model), tensors, rotations_of(model))
    for parameter in model.parameters():  # a view of a mapped file keeps all of it mapped
        parameter.data = torch.empty(0, dtype=parameter.dtype)
    return weights


def config_of(model: Any) -> DecoderConfig:
    """What a model of transformers computes, told by its configuration and its modules.

    Args:
        model: of one of `FAMILIES`.
    """
    config, layers, family = model.config, model.model.layers, FAMILIES[type(model).__name__]
    attention = layers[0].self_attn
    first = attention.qkv_proj if family.built.is_fused else attention.q_proj
    window = getattr(config, "sliding_window", None) if family.has_one_window else None
    return DecoderConfig(
        architecture=type(model).__name__,
        vocab_size=int(model.lm_head.weight.shape[0]),
        hidden_size=int(config.hidden_size),
        intermediate_size=int(config.intermediate_size),
        num_hidden_layers=len(layers),
        num_attention_heads=int(config.num_attention_heads),
        num_key_value_heads=int(config.num_key_value_heads),
        head_dim=int(attention.head_dim),
        max_position_embeddings=int(config.max_position_embeddings),
        rms_norm_eps=float(config.rms_norm_eps),
        tie_word_embeddings=HEAD not in dict(model.named_parameters()),
        has_qkv_bias=first.bias is not None,
        has_qk_norm=hasattr(attention, "q_norm"),
        windows=tuple(getattr(layer.self_attn, "sliding_window", window) or 0 for layer in layers),
        ropes=(),
        eos_token_id=config.eos_token_id,
        dtype=None,
        variant=_variant(model, family),
    )


def _variant(model: Any, family: Family) -> Variant:
    config, layers = model.config, model.model.layers
    attention, feed_forward = layers[0].self_attn, layers[0].mlp
    return replace(
        family.built,
        **scalars(family, vars(config)),
        activation=ACTIVATIONS[getattr(config, family.activation)] if family.activation else family.built.activation,
        has_output_bias=attention.o_proj.bias is not None,
        has_feed_forward_bias=getattr(getattr(feed_forward, "down_proj", None), "bias", None) is not None,
        rotations=_rotation_of_layers(model),
        experts=_experts(model, family),
    )


def _experts(model: Any, family: Family) -> Experts | None:
    if not family.expert_size:
        return None
    config, layers = model.config, model.model.layers
    found = [layer.mlp for layer in layers if hasattr(layer.mlp, "experts")]
    if not found:
        return None
    renormalises = config.norm_topk_prob if family.renormalises is None else family.renormalises
    has_shared = hasattr(found[0], "shared_expert")
    return Experts(
        num_experts=len(found[0].experts.down_proj),
        per_token=int(config.num_experts_per_tok),
        intermediate_size=int(getattr(config, family.expert_size)),
        renormalises=bool(renormalises),
        shared_size=int(config.shared_expert_intermediate_size) if has_shared else 0,
        layers=tuple(hasattr(layer.mlp, "experts") for layer in layers),
        has_bias=family.experts_have_bias,
    )


def _tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Each of a model's tensors, by the names of `decoder_families`; those of experts one by one."""
    named = ((name, parameter.detach()) for name, parameter in model.named_parameters())
    return apart(named, are_transposed=FAMILIES[type(model).__name__].experts_are_transposed)


def rotations_of(model: Any) -> list[Rotation]:
    """The rotary embeddings that layers of a model of transformers have."""
    rotary = model.model.rotary_emb
    names = [f"{kind}_" for kind in _layer_kinds(model)] if not hasattr(rotary, "inv_freq") else [""]
    # A forward pass may have left frequencies there that are for its own length
    frequencies = [getattr(rotary, f"{name}original_inv_freq") for name in names]
    scales = [float(getattr(rotary, f"{name}attention_scaling")) for name in names]
    if is_for_any_length(model):
        return [_rotation_by_length(model, frequencies[0], scales[0])]
    return [Rotation(*rotation) for rotation in zip(frequencies, scales, strict=True)]


def _rotation_by_length(model: Any, frequencies: torch.Tensor, scale: float) -> Rotation:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # which models without such classes do without

    original = int(model.config.rope_parameters["original_max_position_embeddings"])
    long, _ = ROPE_INIT_FUNCTIONS["longrope"](model.config, frequencies.device, seq_len=original + 1)
    return Rotation(frequencies, scale, long, original)


def _rotation_of_layers(model: Any) -> tuple[int, ...]:
    config, kinds = model.config, _layer_kinds(model)
    if not hasattr(model.model.rotary_emb, "inv_freq"):
        return tuple(kinds.index(kind) for kind in config.layer_types)
    if not all(getattr(layer.self_attn, "use_rope", True) for layer in model.model.layers):
        return tuple(0 if layer.self_attn.use_rope else -1 for layer in model.model.layers)
    return ()


def _layer_kinds(model: Any) -> list[str]:
    return sorted(set(getattr(model.config, "layer_types", None) or ()))


def _ropes(config: Any) -> list[Any]:
    """Parameters of each rotary embedding."""
    given = getattr(config, "rope_parameters", None) or {}
    is_by_layer = given and all(isinstance(each, dict) for each in given.values())
    return list(given.values()) if is_by_layer else [given]
