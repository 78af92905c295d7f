"""Attention of packed tokens over slots, and the memory it reads and writes.

`KVMemory` holds keys and values; `attend` is the attention of one layer, and `slot_attention` the form in which
transformers calls it. Knows nothing of requests. Engine thread only.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional

from llmapi_kit.errors import UnsupportedModelError
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.lazy_memory import LazyMemory
from llmapi_kit.runners.score_attention import ScoreChanges, attend_with_scores
from llmapi_kit.runners.step_layout import StepLayout

# Attention features that change the result and are not honoured here; other keywords carry no meaning for it.
REFUSED = ("head_mask", "position_bias")


class KVMemory:
    """Keys and values of all slots, allocated when a layer is first seen.

    Args:
        num_slots: first axis.
        max_length: positions a slot.
        device: of the model's inputs; a layer's tensors are where the layer is.
        dtype: their type.

    Attributes:
        device: as given.
        dtype: as given.
        layers: layer index to (keys, values), each (num_slots, kv_heads, max_length, head_dim).
    """

    def __init__(self, num_slots: int, max_length: int, device: torch.device, dtype: torch.dtype) -> None:
        self.num_slots = num_slots
        self.max_length = max_length
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.device = device
        self.dtype = dtype
        self._lazy: list[tuple[LazyMemory, int, int]] = []  # with rows of a slot, and bytes of a row

    @property
    def num_bytes(self) -> int:
        """Size of all layers in bytes."""
        return sum(k.nbytes + v.nbytes for k, v in self.layers.values())

    def layer(self, index: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a layer; `key` and `value` (T, kv_heads, head_dim) give shapes and device the first time.

        Zeroed, because a masked position is still multiplied by 0, and 0 times NaN is NaN. On a CPU by the system,
        which provides a page once it is written to; torch.zeros would write to all of them.
        """
        if index not in self.layers:

            def allocate(like: torch.Tensor) -> torch.Tensor:
                shape = self.num_slots, like.shape[1], self.max_length, like.shape[2]
                if like.device.type != "cpu":
                    return torch.zeros(shape, device=like.device, dtype=self.dtype)
                memory = LazyMemory(math.prod(shape) * self.dtype.itemsize)
                self._lazy.append((memory, shape[1] * self.max_length, shape[3] * self.dtype.itemsize))
                return torch.frombuffer(memory.buffer, dtype=self.dtype, count=math.prod(shape)).view(shape)

            self.layers[index] = allocate(key), allocate(value)
        return self.layers[index]

    def trim(self, slot: int, length: int) -> None:
        """Give back the memory of a slot from a position on, in every layer; on a CPU."""
        for memory, num_rows, row_bytes in self._lazy:
            heads = range(slot * num_rows, (slot + 1) * num_rows, self.max_length)
            memory.give_back(((head + length) * row_bytes, (head + self.max_length) * row_bytes) for head in heads)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Copy the first positions of a slot to another, in every layer."""
        for keys, values in self.layers.values():
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]

    def clear(self) -> None:
        """Let go of all tensors."""
        self.layers.clear()
        self._lazy.clear()


def slot_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    slot_layout: StepLayout,
    slot_memory: KVMemory | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a packed row, each token over its own slot's past.

    Args:
        module: the attention layer; only its `layer_idx` is read.
        query: (1, heads, T, head_dim).
        key: (1, kv_heads, T, head_dim), of the new tokens only.
        value: likewise.
        attention_mask: None; a mask that the model insists on can't be honoured.
        slot_layout: which token belongs where.
        slot_memory: where keys and values of earlier steps are; None for sequences that are complete in this step.
        scaling: factor on the scores; None for 1/sqrt(head_dim).
        sliding_window: how many of the latest positions a token sees, itself included; None for all.
        softcap: see `ScoreChanges`.
        s_aux: the sinks there.
        options: what else the model passes.

    Returns:
        (1, T, heads, head_dim), and None in place of weights.

    Raises:
        UnsupportedModelError: the model asks for something that would be ignored.
    """
    refused = [name for name in REFUSED if options.get(name) is not None]
    if attention_mask is not None or refused:
        what = "an attention mask of its own" if attention_mask is not None else ", ".join(refused)
        raise UnsupportedModelError(f"{type(module).__name__} uses {what}, which attention over slots can't honour.")
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    changes = ScoreChanges(softcap or 0.0, s_aux) if softcap or s_aux is not None else None
    window = sliding_window or 0
    layout = slot_layout.on(query.device)
    return attend(layout, slot_memory, module.layer_idx, q, k, v, window, scaling, changes)[None], None


def attend(
    layout: StepLayout,
    memory: KVMemory | None,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window: int,
    scaling: float | None,
    changes: ScoreChanges | None = None,
) -> torch.Tensor:
    """Store a layer's new keys and values, and attend each token to its own slot's past.

    Args:
        layout: which token belongs where.
        memory: see `slot_attention`.
        layer: index of the layer.
        query: (T, heads, head_dim).
        key: (T, kv_heads, head_dim), of the new tokens only.
        value: likewise; its head_dim may be another one.
        window: how many of the latest positions a token sees, itself included; 0 for all.
        scaling: factor on the scores; None for 1/sqrt(head_dim).
        changes: what else is done to the scores.

    Returns:
        (T, heads, value's head_dim).
    """
    num_tokens, num_decodes = query.shape[0], len(layout.decodes)
    if memory is not None:
        keys, values = memory.layer(layer, key, value)
        keys[layout.slots, :, layout.positions] = key
        values[layout.slots, :, layout.positions] = value
        parts = []
        for group in layout.decode_groups:
            past = group.slots, slice(None), slice(group.length)
            mask = group.mask(window, query.dtype)
            parts.append(_decode(query[group.start : group.end], keys[past], values[past], mask, scaling, changes))
        if parts:
            decoded = parts[0] if len(parts) == 1 else torch.cat(parts)
    elif num_decodes:  # a complete sequence of one token sees only itself
        alone = slice(num_decodes)
        decoded = _decode(query[alone], key[alone, :, None], value[alone, :, None], None, scaling, changes)
    if num_decodes == num_tokens:
        return decoded
    output = query.new_empty(num_tokens, query.shape[1], value.shape[2])
    if num_decodes:
        output[:num_decodes] = decoded
    for item, at in layout.chunks:
        end = at + len(item.tokens)
        if memory is None or item.start == 0:
            past_key, past_value = key[at:end].transpose(0, 1)[None], value[at:end].transpose(0, 1)[None]
        else:
            length = item.start + len(item.tokens)
            past_key, past_value = keys[item.slot, None, :, :length], values[item.slot, None, :, :length]
        chunk_query = query[at:end].transpose(0, 1)[None]
        mask = None
        if not _is_causal(past_key.shape[2], item.start, window, changes, layout.blocks.get(at)):
            mask = _chunk_mask(layout, at, item, window, query)
        chunk = _chunk(chunk_query, past_key, past_value, mask, scaling, changes)
        output[at:end] = chunk[0].transpose(0, 1)
    return output


def _decode(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    changes: ScoreChanges | None,
) -> torch.Tensor:
    """One token a slot: query (n, heads, d), keys and values (n, kv_heads, length, d) -> (n, heads, d).

    Query heads that share a key head are laid out as that head's query positions, so nothing is repeated.
    """
    num_tokens, heads, size = query.shape
    kv_heads = keys.shape[1]
    if changes is not None:
        return attend_with_scores(query[:, :, None], keys, values, mask, scaling, changes)[:, :, 0]
    grouped = query.reshape(num_tokens, kv_heads, heads // kv_heads, size)
    out = functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scaling)
    return out.reshape(num_tokens, heads, -1)


def _is_causal(length: int, start: int, window: int, changes: ScoreChanges | None, blocks: torch.Tensor | None) -> bool:
    """Whether each token of a chunk sees what is before it in the chunk, and nothing else is to be said."""
    return changes is None and blocks is None and start == 0 and (not window or length <= window)


def _chunk_mask(layout: StepLayout, at: int, item: StepItem, window: int, like: torch.Tensor) -> torch.Tensor:
    """What is added to the scores of a chunk, (1, 1, c, start + c).

    Made once a step: over a long past, making it in every layer took a tenth of the attention's time.
    """
    known = layout.chunk_masks.get((at, window))
    if known is not None:
        return known
    length = item.start + len(item.tokens)
    rows = torch.arange(item.start, length, device=like.device)[:, None]
    columns = torch.arange(length, device=like.device)[None]
    is_hidden = columns > rows
    if (blocks := layout.blocks.get(at)) is not None:
        is_hidden[:, item.start :] &= ~blocks
    if window:
        is_hidden |= columns <= rows - window
    added = torch.zeros(is_hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(is_hidden, -torch.inf)
    layout.chunk_masks[at, window] = added[None, None]
    return layout.chunk_masks[at, window]


def _chunk(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    changes: ScoreChanges | None,
) -> torch.Tensor:
    """Consecutive tokens of one slot: query (1, heads, c, d), keys (1, kv_heads, length, d); no mask is causal."""
    is_grouped = query.shape[1] != keys.shape[1]
    if mask is None:
        return functional.scaled_dot_product_attention(
            query, keys, values, is_causal=True, scale=scaling, enable_gqa=is_grouped
        )
    if changes is not None:
        return attend_with_scores(query, keys, values, mask, scaling, changes)
    if is_grouped and query.device.type == "cuda":
        # Fused kernels take a mask or grouped heads, not both; the plain one writes every score to memory, in float32
        num_sharing = query.shape[1] // keys.shape[1]
        keys, values = (each.repeat_interleave(num_sharing, dim=1) for each in (keys, values))
        is_grouped = False
    return functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, scale=scaling, enable_gqa=is_grouped
    )
