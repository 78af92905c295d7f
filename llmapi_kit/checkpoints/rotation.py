"""Frequencies of rotary position embeddings, and cosines and sines of them.

Knows no model and no file. A test compares it with transformers' own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from llmapi_kit.checkpoints.rope_config import Rope


@dataclass(frozen=True, slots=True)
class Rotation:
    """A rotary embedding.

    Attributes:
        inv_freq: (rotated / 2,) in radians a position; `rotated` of a head's numbers are turned, the first ones.
        scale: of cosines and sines.
        long_inv_freq: in place of `inv_freq`, in sequences longer than `original_length`; None where a sequence's
            length changes nothing.
        original_length: of those in training; 0 where a sequence's length changes nothing.
    """

    inv_freq: torch.Tensor
    scale: float = 1.0
    long_inv_freq: torch.Tensor | None = None
    original_length: int = 0

    def cosines_and_sines(self, length: int, *, is_long: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each position up to a length: (length, rotated) each.

        Args:
            length: how many positions.
            is_long: whether they are of a sequence longer than `original_length`.
        """
        frequencies = self.long_inv_freq if is_long and self.long_inv_freq is not None else self.inv_freq
        angles = torch.arange(length)[:, None].float() * frequencies.float()
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos() * self.scale, angles.sin() * self.scale


def rotation_of(rope: Rope, head_dim: int) -> Rotation:
    """What a position turns each pair of a head's numbers by.

    Source: Su et al. 2021 (RoFormer); for the scaled kinds, the blog post of kaiokendev on linear scaling,
    https://github.com/meta-llama/llama-models/blob/main/models/llama3/reference_impl/model.py, Peng et al. 2023 (YaRN)
    and Ding et al. 2024 (LongRoPE).
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
    if rope.kind == "longrope":
        return _by_length(wavelengths, rope)
    return Rotation(frequencies)


def _by_length(wavelengths: torch.Tensor, rope: Rope) -> Rotation:
    short, long = (1.0 / (torch.tensor(factors) * wavelengths) for factors in (rope.short_factor, rope.long_factor))
    original = int(rope.original_max_position_embeddings)
    by_factor = math.sqrt(1 + math.log(rope.factor) / math.log(original)) if rope.factor > 1 else 1.0
    return Rotation(short, rope.attention_factor or by_factor, long, original)


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
