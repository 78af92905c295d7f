"""The forward pass of `decoder.c` in plain torch, for a short prompt: what a load compares the compiled one with.

It stands in for transformers' own forward pass, whose classes take longer to import than torch itself. What those
would find is found in two halves. That this is what transformers computes, for each field of a configuration that
`checkpoints/decoder_config` lets pass, is what the tests say, on models of every family. That the compiled step
computes the same as this, with this compiler, on this processor and with these weights in their real shapes, is
tried at each load: it takes milliseconds for a small model, and one reading of the weights for a large one.

Reads each weight once and lets go of its pages, so that it takes no memory to speak of. Knows nothing of slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import torch
from torch.nn import functional

from llmapi_kit.checkpoints.decoder_families import (
    EMBEDDING,
    EXPERT_PRODUCTS,
    HEAD,
    NORM,
    ROUTER,
    SHARED_GATE,
    SINKS,
    Experts,
    Variant,
)
from llmapi_kit.checkpoints.decoder_weights import DecoderWeights, layer_name
from llmapi_kit.checkpoints.integer_weights import IntegerMatrix
from llmapi_kit.checkpoints.mapped_files import drop_pages
from llmapi_kit.runners.thread_count import num_threads_set

BLOCK = 1 << 20  # numbers of a matrix that a thread widens at once, of which the heap keeps some, ...
ROUNDED_BLOCK = 1 << 18  # ... and that it rounds, which takes several times their room


@torch.inference_mode()
def last_logits(
    weights: DecoderWeights,
    ids: Sequence[int],
    num_threads: int = 1,
    windows: Sequence[int] | None = None,
    *,
    is_long: bool = False,
) -> torch.Tensor:
    """Logits (1, vocab) in float32 after a prompt. The weights stay where they are.

    Args:
        weights: of which none was taken.
        ids: the prompt.
        num_threads: that multiply. Torch's own wait for each other by spinning, some hundred times here: on a busy
            machine that took ten times as long as one thread alone.
        windows: of each layer, in place of the configuration's.
        is_long: whether the prompt is computed as a long one, see `llmapi_kit.checkpoints.rotation.Rotation`.
    """
    with (
        num_threads_set(1),
        ThreadPoolExecutor(num_threads, "llmapi_kit check", torch.set_num_threads, (1,)) as pool,
    ):
        rotaries = weights.rotaries(len(ids), is_long=is_long)
        return _Forward(weights, rotaries, pool, windows or weights.config.windows).logits(ids)


class _Forward:
    """Computes a prompt of as many tokens as the rotary embeddings have positions."""

    def __init__(
        self,
        weights: DecoderWeights,
        rotaries: Sequence[tuple[torch.Tensor, torch.Tensor]],
        pool: ThreadPoolExecutor,
        windows: Sequence[int],
    ) -> None:
        self._weights, self._tensors, self._config, self._pool = weights, weights.tensors, weights.config, pool
        self._is_tied, self._windows = weights.is_tied, windows
        self._variant = weights.config.variant
        self._rotaries = rotaries
        positions = torch.arange(len(rotaries[0][0]))
        self._behind = positions[:, None] - positions[None]  # (T, T)

    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        embedding, variant = self._tensors[EMBEDDING], self._variant
        x = torch.cat([_rows(embedding, token, token + 1) for token in ids])  # (T, hidden)
        x = x * variant.embedding_scale
        norms = variant.norms
        for index in range(self._config.num_hidden_layers):
            attended = self._attend(index, self._norm(index, x, norms.before_attention))
            x = x + variant.residual_multiplier * self._norm(index, attended, norms.after_attention)
            fed = self._feed_forward(index, self._norm(index, x, norms.before_feed_forward))
            x = x + variant.residual_multiplier * self._norm(index, fed, norms.after_feed_forward)
        logits = self._multiply(self._normed(x[-1:], NORM), EMBEDDING if self._is_tied else HEAD)
        _release(embedding)
        return _capped(logits * variant.logit_scale, variant.logit_softcap)

    def _attend(self, index: int, x: torch.Tensor) -> torch.Tensor:
        config = self._config
        query, key, value = self._queries_keys_values(index, x)  # (heads, T, head_dim)
        group = config.num_attention_heads // config.num_key_value_heads
        key, value = key.repeat_interleave(group, 0), value.repeat_interleave(group, 0)
        scale = self._variant.attention_scale or config.head_dim**-0.5
        scores = _capped(query @ key.transpose(1, 2) * scale, self._variant.attention_softcap)  # (heads, T, T)
        is_hidden = (self._behind < 0) | (self._behind >= (self._windows[index] or len(x)))
        scores = scores.masked_fill(is_hidden, -torch.inf)
        if self._variant.has_sinks:
            sinks = self._weights.tensor(layer_name(index, SINKS)).float()
            scores = torch.cat((scores, sinks[:, None, None].expand(-1, len(x), 1)), -1)
        mixed = scores.softmax(-1)[..., : len(x)] @ value
        return self._project(index, mixed.transpose(0, 1).flatten(1), "self_attn.o_proj")

    def _queries_keys_values(self, index: int, x: torch.Tensor) -> list[torch.Tensor]:
        config, variant = self._config, self._variant
        queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        projected = torch.cat([self._project(index, x, name) for name in variant.products[0]], -1)
        parts = projected.tensor_split((queries, queries + keys), -1)
        heads = [part if variant.norms_all_heads else part.reshape(len(x), -1, config.head_dim) for part in parts]
        if config.has_qk_norm:
            heads[:2] = [self._norm(index, heads[i], f"self_attn.{name}_norm") for i, name in enumerate("qk")]
        heads = [part.reshape(len(x), -1, config.head_dim).transpose(0, 1) for part in heads]
        if (rotation := variant.rotation(index)) >= 0:
            heads[:2] = [_rotate(part, *self._rotaries[rotation]) for part in heads[:2]]
        return heads

    def _feed_forward(self, index: int, x: torch.Tensor) -> torch.Tensor:
        if self._variant.has_experts(index):
            return self._experts(index, x)
        gate, down = self._variant.products[2:]
        return self._gated(index, x, gate, down[0])

    def _gated(self, index: int, x: torch.Tensor, gate_up: Sequence[str], down: str) -> torch.Tensor:
        gate, up = torch.cat([self._project(index, x, name) for name in gate_up], -1).chunk(2, -1)
        return self._project(index, _activated(self._variant, gate, up), down)

    def _experts(self, index: int, x: torch.Tensor) -> torch.Tensor:
        experts = cast(Experts, self._variant.experts)
        shares, chosen = self._project(index, x, ROUTER).softmax(-1).topk(experts.per_token)  # (T, per_token)
        if experts.renormalises:
            shares = shares / shares.sum(-1, keepdim=True)
        fed = torch.zeros_like(x)
        for expert in sorted(set(chosen.flatten().tolist())):
            token, place = torch.where(chosen == expert)
            name = f"mlp.experts.{expert}"
            gate_up = [f"{name}.{part}" for part in EXPERT_PRODUCTS[0]]
            own = self._gated(index, x[token], gate_up, f"{name}.down_proj")
            fed.index_add_(0, token, own * shares[token, place, None])
        if experts.shared_size:
            gate_up = [f"mlp.shared_expert.{name}_proj" for name in ("gate", "up")]
            own = self._gated(index, x, gate_up, "mlp.shared_expert.down_proj")
            fed += self._project(index, x, SHARED_GATE).sigmoid() * own
        return fed

    def _norm(self, index: int, x: torch.Tensor, name: str) -> torch.Tensor:
        """By the norm of a layer, where it has one of that name."""
        return self._normed(x, layer_name(index, f"{name}.weight")) if name else x

    def _normed(self, x: torch.Tensor, name: str) -> torch.Tensor:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self._config.rms_norm_eps)
        return x * scale * (self._weights.tensor(name).float() + self._variant.norm_offset)

    def _project(self, index: int, x: torch.Tensor, name: str) -> torch.Tensor:
        projected = self._multiply(x, layer_name(index, f"{name}.weight"))
        bias = layer_name(index, f"{name}.bias")
        return projected + self._weights.tensor(bias).float() if bias in self._tensors else projected

    def _multiply(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """X (n, inputs) by a matrix (outputs, inputs), of which a block a thread is widened at once."""
        weight = self._tensors[name]
        num_rows, num_inputs = weight.shape
        step = max(1, (ROUNDED_BLOCK if isinstance(weight, IntegerMatrix) else BLOCK) // num_inputs)
        begins = range(0, num_rows, step)
        parts = self._pool.map(lambda begin: x @ _rows(weight, begin, min(begin + step, num_rows)).t(), begins)
        product = torch.cat(list(parts), dim=-1)
        _release(weight)
        return product


def _activated(variant: Variant, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """What a feed-forward's last matrix is given."""
    if variant.activation == "clamped_swiglu":
        gate, up = gate.clamp(max=variant.swiglu_limit), up.clamp(-variant.swiglu_limit, variant.swiglu_limit)
        return gate * torch.sigmoid(gate * variant.swiglu_alpha) * (up + 1)
    return (functional.silu(gate) if variant.activation == "silu" else functional.gelu(gate, approximate="tanh")) * up


def _rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The first numbers of each head, as many as there are cosines."""
    turned, kept = heads[..., : cos.shape[-1]], heads[..., cos.shape[-1] :]
    first, second = turned.chunk(2, -1)
    return torch.cat((turned * cos + torch.cat((-second, first), -1) * sin, kept), -1)


def _capped(scores: torch.Tensor, cap: float) -> torch.Tensor:
    return cap * torch.tanh(scores / cap) if cap else scores


def _rows(weight: torch.Tensor | IntegerMatrix, begin: int, end: int) -> torch.Tensor:
    """Rows of a matrix in float32, as the compiled step has them."""
    return weight.rows(begin, end).widened() if isinstance(weight, IntegerMatrix) else weight[begin:end].float()


def _release(weight: torch.Tensor | IntegerMatrix) -> None:
    if isinstance(weight, IntegerMatrix):
        weight.release()
    else:
        drop_pages(weight)
