"""The forward pass of Llama-like decoders, written out for a packed step.

transformers' modules spend more time in Python than in arithmetic when a model is small or a batch is short. This is
the same computation on the same weights in about a dozen calls a layer: query, key and value in one projection, gate
and up in another, rotary embedding from a table, residuals added by the projections that feed them. `TorchRunner`
uses it where it can and checks it against the model's own logits; everything else runs through the modules.

Knows tokens and positions, nothing of slots or requests. Engine thread only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from llmapi_kit.checkpoints.mapped_files import drop_pages

# Attention of a layer over what it stores: layer, query, key, value, window, scaling -> (T, heads, head_dim)
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor, int, float], torch.Tensor]

# What adapters add to a product, known by layer and index in `PRODUCTS`: product, inputs, outputs -> outputs
Change = Callable[[tuple[int, int], torch.Tensor, torch.Tensor], torch.Tensor]

# Families whose layer is: norm, attention with rotary embedding, norm, gated feed-forward; nothing else. Qwen3 norms
# each head's queries and keys as well.
FAMILIES = {
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
}


def unchanged(product: tuple[int, int], inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Where there are no adapters."""
    return outputs


@dataclass(slots=True)
class _Layer:
    """Weights of a layer, as its projections are fused; shares memory with nothing of the model."""

    input_norm: torch.Tensor
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    output: torch.Tensor  # transposed, for addmm
    post_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor  # transposed
    scaling: float


class LeanDecoder:
    """Computes hidden states of packed steps.

    The fused weights replace the model's: the modules give theirs up as each layer is taken over, so memory holds
    them once. After it, the model can't run by itself any more.

    Args:
        model: a causal language model of one of `FAMILIES`; see `can_run`.
        max_length: positions to tabulate the rotary embedding for.

    Attributes:
        head_dim: width of a head.
        windows: how many of the latest positions a token sees in each layer, itself included; 0 for all.
    """

    def __init__(self, model: Any, max_length: int) -> None:
        config = model.config
        base = model.model
        self._heads = config.num_attention_heads
        self._kv_heads = config.num_key_value_heads
        self.head_dim = base.layers[0].self_attn.head_dim
        self._eps = config.rms_norm_eps
        self._embedding = base.embed_tokens.weight
        self._head = model.lm_head.weight
        self._norm = base.norm.weight
        positions = torch.arange(max_length, device=model.device)[None]
        cos, sin = base.rotary_emb(self._embedding[:1, :1], positions)  # (1, max_length, head_dim)
        half = self.head_dim // 2
        # Rotating halves is rolling by half the width, with the sign of the first half in the table
        self._cos = cos[0, :, None]
        self._sin = torch.cat((-sin[0, :, :half], sin[0, :, half:]), dim=-1)[:, None].contiguous()
        window = getattr(config, "sliding_window", None) if type(model).__name__ == "MistralForCausalLM" else None
        self.windows = [getattr(layer.self_attn, "sliding_window", window) or 0 for layer in base.layers]
        self._layers = [_take_over(layer) for layer in base.layers]

    @staticmethod
    def can_run(model: Any) -> bool:
        """Whether a model is one whose forward pass is written out here."""
        config = model.config
        rope = getattr(config, "rope_scaling", None) or getattr(config, "rope_parameters", None) or {}
        return (
            type(model).__name__ in FAMILIES
            and type(model).__module__.startswith("transformers.models.")  # another's may be of the same name
            and rope.get("rope_type", "default") in ("default", "linear", "llama3")
            and config.hidden_act in ("silu", "swish")
            and model.lm_head.bias is None
            and all(_has_known_biases(layer) for layer in model.model.layers)
            and not hasattr(model, "hf_quantizer")
            and all(p.dtype == model.dtype for p in model.parameters())
        )

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """What stands for tokens (T,) at the first layer: (T, hidden)."""
        embedded: torch.Tensor = self._embedding[input_ids]
        return embedded

    def hidden_states(
        self, embedded: torch.Tensor, positions: torch.Tensor, attend: Attend, change: Change = unchanged
    ) -> torch.Tensor:
        """Normed last hidden states (T, hidden) of tokens, embedded as (T, hidden), at positions (T,)."""
        cos, sin = self._cos[positions], self._sin[positions]  # (T, 1, head_dim)
        x = embedded
        num_tokens, width = x.shape
        rotated = self._heads + self._kv_heads
        for index, layer in enumerate(self._layers):
            h = functional.rms_norm(x, (width,), layer.input_norm, self._eps)
            qkv = change((index, 0), h, functional.linear(h, layer.qkv, layer.qkv_bias))
            qkv = qkv.view(num_tokens, -1, self.head_dim)
            qk = qkv[:, :rotated]
            if layer.q_norm is not None and layer.k_norm is not None:
                size = (self.head_dim,)
                qk = torch.cat(
                    (
                        functional.rms_norm(qkv[:, : self._heads], size, layer.q_norm, self._eps),
                        functional.rms_norm(qkv[:, self._heads : rotated], size, layer.k_norm, self._eps),
                    ),
                    dim=1,
                )
            qk = torch.addcmul(qk * cos, qk.roll(self.head_dim // 2, -1), sin)
            query, key, value = qk[:, : self._heads], qk[:, self._heads :], qkv[:, rotated:]
            attended = attend(index, query, key, value, self.windows[index], layer.scaling).reshape(num_tokens, -1)
            x = _added(x, attended, layer.output, change, (index, 1))
            h = functional.rms_norm(x, (width,), layer.post_norm, self._eps)
            gate, up = change((index, 2), h, functional.linear(h, layer.gate_up)).chunk(2, -1)
            inner = functional.silu(gate).mul_(up)
            x = _added(x, inner, layer.down, change, (index, 3))
        return functional.rms_norm(x, (width,), self._norm, self._eps)

    def product(self, name: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The weight (outputs, inputs) and the bias (outputs,) of a product that adapters change."""
        index, part = name
        layer = self._layers[index]
        weights = (layer.qkv, layer.output.t(), layer.gate_up, layer.down.t())
        return weights[part], layer.qkv_bias if part == 0 else None

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits (n, vocab) of hidden states (n, hidden)."""
        return functional.linear(states, self._head)


def _added(
    x: torch.Tensor, inputs: torch.Tensor, weight: torch.Tensor, change: Change, product: tuple[int, int]
) -> torch.Tensor:
    """Residuals (T, hidden) and a product, with what adapters change of the product alone."""
    if change is unchanged:
        return torch.addmm(x, inputs, weight)
    return x + change(product, inputs, inputs @ weight)


def _has_known_biases(layer: Any) -> bool:
    """Whether all of query, key and value have a bias, or none, and nothing else has one."""
    attention, mlp = layer.self_attn, layer.mlp
    fused = {part.bias is None for part in (attention.q_proj, attention.k_proj, attention.v_proj)}
    others = (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    return len(fused) == 1 and all(part.bias is None for part in others)


def _take_over(layer: Any) -> _Layer:
    """Fuse a layer's weights and let go of the originals."""
    attention, mlp = layer.self_attn, layer.mlp
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    has_bias = attention.q_proj.bias is not None
    fused = _Layer(
        input_norm=layer.input_layernorm.weight.detach(),
        qkv=torch.cat([part.weight.detach() for part in parts]),
        qkv_bias=torch.cat([part.bias.detach() for part in parts]) if has_bias else None,
        q_norm=attention.q_norm.weight.detach() if hasattr(attention, "q_norm") else None,
        k_norm=attention.k_norm.weight.detach() if hasattr(attention, "k_norm") else None,
        output=attention.o_proj.weight.detach().t(),
        post_norm=layer.post_attention_layernorm.weight.detach(),
        gate_up=torch.cat([mlp.gate_proj.weight.detach(), mlp.up_proj.weight.detach()]),
        down=mlp.down_proj.weight.detach().t(),
        scaling=attention.scaling,
    )
    for module in (*parts, mlp.gate_proj, mlp.up_proj):
        drop_pages(module.weight)
        module.weight.data = torch.empty(0, dtype=fused.qkv.dtype, device=fused.qkv.device)
    return fused
