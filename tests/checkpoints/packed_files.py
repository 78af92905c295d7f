"""Packs matrices as quantized checkpoints have them: written here by the formats' descriptions, for tests."""

from __future__ import annotations

import torch

from llmapi_kit.checkpoints.integer_weights import ZERO_BITS, round_rows

GROUP = 32
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def _weights(bits, **strategy):
    return {"num_bits": bits, "type": "int", "symmetric": True, **strategy}


CONFIGS = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": False},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True},
    "pack-quantized": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": _weights(bits=4, strategy="group", group_size=GROUP),
            }
        },
        "ignore": ["lm_head"],
    },
    "int-quantized": {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "config_groups": {"group_0": {"weights": _weights(bits=8, strategy="channel")}},
    },
}


def words(values, order=range(8)):
    """Eight values of 4 bits along the last dimension to a word of 32."""
    parts = values.long().unflatten(-1, (-1, 8))
    packed = sum(parts[..., column] << (4 * place) for place, column in enumerate(order))
    return torch.where(packed >= 2**31, packed - 2**32, packed).int()


def packed(weight, layout):
    """A matrix's tensors by the last part of their names, and the weights that they stand for."""
    if layout == "int-quantized":
        scales = (weight.abs().amax(1, keepdim=True) / 127).half()
        values = (weight / scales.float()).round().clamp(-127, 127)
        return {"weight": values.to(torch.int8), "weight_scale": scales}, values * scales.float()
    rounded = round_rows(weight.float(), 4, GROUP)
    scales = (rounded.scales & ~ZERO_BITS).view(torch.float32).half()
    zeros = rounded.scales & ZERO_BITS
    if layout == "pack-quantized":
        zeros = torch.full_like(zeros, 8)
    wide = (rounded.values.float().unflatten(1, (-1, GROUP)) - zeros[..., None]) * scales.float()[..., None]
    if layout == "gptq":
        index = torch.arange(weight.shape[1], dtype=torch.int32) // GROUP
        parts = {"qweight": words(rounded.values).t(), "qzeros": words((zeros - 1).t()), "scales": scales.t()}
        parts["g_idx"] = index
    elif layout == "awq":
        parts = {"qweight": words(rounded.values.t(), AWQ_ORDER), "qzeros": words(zeros.t(), AWQ_ORDER)}
        parts["scales"] = scales.t()
    else:
        parts = {"weight_packed": words(rounded.values), "weight_scale": scales}
        parts["weight_shape"] = torch.tensor(weight.shape)
    return {name: part.contiguous() for name, part in parts.items()}, wide.flatten(1)
