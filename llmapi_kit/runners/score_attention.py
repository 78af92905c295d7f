"""Attention whose scores are changed before their softmax: capped, or with a sink that takes a share of it.

torch's own attention does neither, so it is written out. Knows nothing of slots.

Source: Gemma 2 (arXiv:2408.00118) for the cap; GPT-OSS and "Efficient Streaming Language Models with Attention Sinks"
(arXiv:2309.17453) for sinks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class ScoreChanges(NamedTuple):
    """What is done to the scores of a layer.

    Attributes:
        softcap: scores are kept within plus and minus this, by a hyperbolic tangent; 0 for no cap.
        sinks: (heads,) scores of a position that has no value; None for none.
    """

    softcap: float = 0.0
    sinks: torch.Tensor | None = None


def attend_with_scores(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    changes: ScoreChanges,
) -> torch.Tensor:
    """Attention as `scaled_dot_product_attention` computes it, but for the scores.

    Args:
        query: (n, heads, c, head_dim).
        keys: (n, kv_heads, length, head_dim).
        values: likewise.
        mask: what is added to the scores, (n or 1, 1, c or 1, length); None for nothing.
        scaling: factor on the scores; None for 1/sqrt(head_dim).
        changes: of the scores.

    Returns:
        (n, heads, c, value's head_dim).
    """
    num, heads, length, size = query.shape
    kv_heads = keys.shape[1]
    grouped = query.reshape(num, kv_heads, heads // kv_heads, length, size)
    scores = grouped @ keys[:, :, None].transpose(-1, -2) * (size**-0.5 if scaling is None else scaling)
    if changes.softcap:
        scores = torch.tanh(scores / changes.softcap) * changes.softcap
    if mask is not None:
        scores = scores + mask[:, :, None]
    if changes.sinks is not None:
        sinks = changes.sinks.view(1, kv_heads, -1, 1, 1).expand(num, -1, -1, length, 1).to(scores)
        scores = torch.cat((scores, sinks), dim=-1)
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    if changes.sinks is not None:
        weights = weights[..., :-1]
    return (weights @ values[:, :, None]).reshape(num, heads, length, -1)
