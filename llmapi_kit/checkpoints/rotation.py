"""Frequencies of rotary position embeddings, and cosines and sines of them.

Knows no model and no file. A test compares it with transformers' own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from llmapi_kit.checkpoints.rope import Rope


@dataclass(frozen=True, slots=True)
class Rotation:
    """A rotary embedding.

    Attributes:
        inv_freq: (rotated / 2,) in radians a position; `rotated` of a head's numbers are turned, the first ones.
        scale: of cosines and sines.
    """

    inv_freq: torch.Tensor
    scale: float = 1.0

    def cosines_and_sines(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each position up to a length: (length, rotated) each."""
        angles = torch.arange(length)[:, None].float() * self.inv_freq.float()
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos() * self.scale, angles.sin() * self.scale


def rotation_of(rope: Rope, head_dim: int) -> Rotation:
    """What a position turns each pair of a head's numbers by.

    Source: Su et al. 2021 (RoFormer); for the scaled kinds, the blog post of kaiokendev on linear scaling,
    https://github.com/meta-llama/llama-models/blob/main/models/llama3/reference_impl/model.py, and Peng et al. 2023
    (YaRN).
    """
    rotated = int(head_dim * rope.partial_rotary_factor)
    wavelengths = rope.theta ** (torch.arange(0, rotated, 2, dtype=torch.float) / rotated)
    frequencies = 1.0 / wavelengths
    if rope.kind == "linear":
        return Rotation(frequencies / rope.factor)
    if rope.kind == "llama3":
        return Rotation(_stretch_long_waves(frequencies, rope))
    if rope.kind == "yarn":
        by_factor = 0.1 * math.log(rope.factor) + 1.0 if rope.factor > 1 else 1.0
        return Rotation(_stretch_slow_waves(wavelengths, rope), rope.attention_factor or by_factor)
    return Rotation(frequencies)


def _stretch_long_waves(frequencies: torch.Tensor, rope: Rope) -> torch.Tensor:
    context, low, high = rope.original_max_position_embeddings, rope.low_freq_factor, rope.high_freq_factor
    wavelengths = 2 * torch.pi / frequencies
    stretched = frequencies / rope.factor
    share = (context / wavelengths - low) / (high - low)
    between = (1 - share) * stretched + share * frequencies
    kept = torch.where(wavelengths < context / high, frequencies, between)
    return torch.where(wavelengths > context / low, stretched, kept)


def _stretch_slow_waves(wavelengths: torch.Tensor, rope: Rope) -> torch.Tensor:
    rotated = 2 * len(wavelengths)

    def pair(num_turns: float) -> float:
        """The pair of numbers that makes so many turns in the original context."""
        context = rope.original_max_position_embeddings
        return rotated * math.log(context / (num_turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = pair(rope.beta_fast), pair(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotated - 1)
    ramp = (torch.arange(rotated // 2, dtype=torch.float32) - low) / (high - low or 0.001)
    kept = 1 - ramp.clamp(0, 1)
    return 1.0 / (rope.factor * wavelengths) * (1 - kept) + 1.0 / wavelengths * kept
