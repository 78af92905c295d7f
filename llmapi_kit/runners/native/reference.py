"""The forward pass of `decoder.c` in plain torch, for a short prompt: what a load compares the compiled one with.

It stands in for transformers' own forward pass, whose classes take longer to import than torch itself. What those
would find is found in two halves. That this is what transformers computes, for each field of a configuration that
`models/decoder_config` lets pass, is what the tests say, on models of every family. That the compiled step computes
the same as this, with this compiler, on this processor and with these weights in their real shapes, is tried at each
load: it takes milliseconds for a small model, and one reading of the weights for a large one.

Reads each weight once and lets go of its pages, so that it takes no memory to speak of. Knows nothing of slots.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from llmapi_kit.models.decoder_weights import EMBEDDING, HEAD, NORM, DecoderWeights, layer_name
from llmapi_kit.models.mapped_files import drop_pages

BLOCK = 1 << 22  # numbers of a matrix that are widened at once


@torch.inference_mode()
def last_logits(weights: DecoderWeights, ids: Sequence[int]) -> torch.Tensor:
    """Logits (1, vocab) in float32 after a prompt. The weights stay where they are."""
    config, tensors = weights.config, weights.tensors
    rotary = weights.rotary(len(ids))
    x = tensors[EMBEDDING][torch.tensor(ids)].float()  # (T, hidden)
    for index in range(config.num_hidden_layers):
        layer = _Layer(weights, index)
        x = x + layer.attend(layer.norm(x, "input_layernorm"), rotary)
        x = x + layer.feed_forward(layer.norm(x, "post_attention_layernorm"))
    x = _norm(x[-1:], tensors[NORM], config.rms_norm_eps)
    logits = _multiply(x, tensors[EMBEDDING if weights.is_tied else HEAD])
    drop_pages(tensors[EMBEDDING])
    return logits


class _Layer:
    def __init__(self, weights: DecoderWeights, index: int) -> None:
        self._tensors, self._config, self._index = weights.tensors, weights.config, index

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return _norm(x, self._weight(name), self._config.rms_norm_eps)

    def attend(self, x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Causal attention of all positions of x (T, hidden)."""
        config = self._config
        query = self._rotate(self._heads(x, "q", config.num_attention_heads), rotary)  # (heads, T, head_dim)
        key = self._rotate(self._heads(x, "k", config.num_key_value_heads), rotary)
        value = self._heads(x, "v", config.num_key_value_heads)
        group = config.num_attention_heads // config.num_key_value_heads
        key, value = key.repeat_interleave(group, 0), value.repeat_interleave(group, 0)
        scores = query @ key.transpose(1, 2) * config.head_dim**-0.5  # (heads, T, T)
        mixed = scores.masked_fill(self._hidden(len(x)), -torch.inf).softmax(-1) @ value
        return self._project(mixed.transpose(0, 1).flatten(1), "self_attn.o_proj")

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = functional.silu(self._project(x, "mlp.gate_proj"))
        return self._project(gate * self._project(x, "mlp.up_proj"), "mlp.down_proj")

    def _heads(self, x: torch.Tensor, name: str, num_heads: int) -> torch.Tensor:
        """Queries, keys or values, (heads, T, head_dim)."""
        heads = self._project(x, f"self_attn.{name}_proj").unflatten(-1, (num_heads, -1)).transpose(0, 1)
        if name != "v" and self._config.has_qk_norm:
            heads = self.norm(heads, f"self_attn.{name}_norm")
        return heads

    def _rotate(self, heads: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        cos, sin = rotary
        first, second = heads.chunk(2, -1)
        return heads * cos + torch.cat((-second, first), -1) * sin

    def _hidden(self, length: int) -> torch.Tensor:
        """Which positions (T, T) do not see which: those ahead, and those that have left the window."""
        behind = torch.arange(length)[:, None] - torch.arange(length)[None]
        window = self._config.windows[self._index] or length
        return (behind < 0) | (behind >= window)

    def _project(self, x: torch.Tensor, name: str) -> torch.Tensor:
        bias = self._tensors.get(layer_name(self._index, f"{name}.bias"))
        projected = _multiply(x, self._weight(name))
        return projected if bias is None else projected + bias.float()

    def _weight(self, name: str) -> torch.Tensor:
        return self._tensors[layer_name(self._index, f"{name}.weight")]


def _norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * weight.float()


def _multiply(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """X (n, inputs) by a matrix (outputs, inputs), of which no more than a block is widened at once."""
    blocks = weight.split(max(1, BLOCK // weight.shape[1]))
    product = torch.cat([x @ block.float().t() for block in blocks], dim=-1)
    drop_pages(weight)
    return product
