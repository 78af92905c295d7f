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

import torch
from torch.nn import functional

from llmapi_kit.checkpoints.decoder_weights import EMBEDDING, HEAD, NORM, DecoderWeights, layer_name
from llmapi_kit.checkpoints.integer_weights import IntegerMatrix
from llmapi_kit.checkpoints.mapped_files import drop_pages
from llmapi_kit.runners.thread_count import num_threads_set

BLOCK = 1 << 22  # numbers of a matrix that a thread widens at once, ...
ROUNDED_BLOCK = 1 << 18  # ... and that it rounds, which takes several times their room


@torch.inference_mode()
def last_logits(
    weights: DecoderWeights, ids: Sequence[int], num_threads: int = 1, windows: Sequence[int] | None = None
) -> torch.Tensor:
    """Logits (1, vocab) in float32 after a prompt. The weights stay where they are.

    Args:
        weights: of which none was taken.
        ids: the prompt.
        num_threads: that multiply. Torch's own wait for each other by spinning, some hundred times here: on a busy
            machine that took ten times as long as one thread alone.
        windows: of each layer, in place of the configuration's.
    """
    with (
        num_threads_set(1),
        ThreadPoolExecutor(num_threads, "llmapi_kit check", torch.set_num_threads, (1,)) as pool,
    ):
        return _Forward(weights, len(ids), pool, windows or weights.config.windows).logits(ids)


class _Forward:
    """Computes a prompt of some length."""

    def __init__(self, weights: DecoderWeights, length: int, pool: ThreadPoolExecutor, windows: Sequence[int]) -> None:
        self._weights, self._tensors, self._config, self._pool = weights, weights.tensors, weights.config, pool
        self._is_tied, self._windows = weights.is_tied, windows
        self._cos, self._sin = weights.rotary(length)
        self._behind = torch.arange(length)[:, None] - torch.arange(length)[None]  # (T, T)

    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        embedding = self._tensors[EMBEDDING]
        x = torch.cat([_rows(embedding, token, token + 1) for token in ids])  # (T, hidden)
        for index in range(self._config.num_hidden_layers):
            x = x + self._attend(index, self._norm(x, layer_name(index, "input_layernorm.weight")))
            x = x + self._feed_forward(index, self._norm(x, layer_name(index, "post_attention_layernorm.weight")))
        logits = self._multiply(self._norm(x[-1:], NORM), EMBEDDING if self._is_tied else HEAD)
        _release(embedding)
        return logits

    def _attend(self, index: int, x: torch.Tensor) -> torch.Tensor:
        config = self._config
        query = self._rotate(self._heads(index, x, "q", config.num_attention_heads))  # (heads, T, head_dim)
        key = self._rotate(self._heads(index, x, "k", config.num_key_value_heads))
        value = self._heads(index, x, "v", config.num_key_value_heads)
        group = config.num_attention_heads // config.num_key_value_heads
        key, value = key.repeat_interleave(group, 0), value.repeat_interleave(group, 0)
        scores = query @ key.transpose(1, 2) * config.head_dim**-0.5  # (heads, T, T)
        is_hidden = (self._behind < 0) | (self._behind >= (self._windows[index] or len(x)))
        mixed = scores.masked_fill(is_hidden, -torch.inf).softmax(-1) @ value
        return self._project(index, mixed.transpose(0, 1).flatten(1), "self_attn.o_proj")

    def _feed_forward(self, index: int, x: torch.Tensor) -> torch.Tensor:
        gate = functional.silu(self._project(index, x, "mlp.gate_proj"))
        return self._project(index, gate * self._project(index, x, "mlp.up_proj"), "mlp.down_proj")

    def _heads(self, index: int, x: torch.Tensor, name: str, num_heads: int) -> torch.Tensor:
        """Queries, keys or values, (heads, T, head_dim)."""
        heads = self._project(index, x, f"self_attn.{name}_proj").view(len(x), num_heads, -1).transpose(0, 1)
        if name != "v" and self._config.has_qk_norm:
            return self._norm(heads, layer_name(index, f"self_attn.{name}_norm.weight"))
        return heads

    def _rotate(self, heads: torch.Tensor) -> torch.Tensor:
        first, second = heads.chunk(2, -1)
        return heads * self._cos + torch.cat((-second, first), -1) * self._sin

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self._config.rms_norm_eps)
        return x * scale * self._weights.tensor(name).float()

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


def _rows(weight: torch.Tensor | IntegerMatrix, begin: int, end: int) -> torch.Tensor:
    """Rows of a matrix in float32, as the compiled step has them."""
    return weight.rows(begin, end).widened() if isinstance(weight, IntegerMatrix) else weight[begin:end].float()


def _release(weight: torch.Tensor | IntegerMatrix) -> None:
    if isinstance(weight, IntegerMatrix):
        weight.release()
    else:
        drop_pages(weight)
