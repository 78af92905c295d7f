"""From the states of a text's tokens to one vector, as sentence-transformers defines the ways.

Sequences stand in a padded batch, each at its row's beginning. Knows nothing of models.

Source: sentence-transformers, ``Pooling``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def pool(states: torch.Tensor, mask: torch.Tensor, mode: str) -> torch.Tensor:
    """One vector a row (batch, hidden_size).

    Args:
        states: of tokens (batch, length, hidden_size).
        mask: 1 where a token is pooled (batch, length).
        mode: one of `llmapi_kit.checkpoints.embedding_config.POOLING_MODES`.
    """
    states = states.float()
    rows = torch.arange(len(states), device=states.device)
    weights = mask.unsqueeze(-1).to(states.dtype)  # (batch, length, 1)
    if mode == "cls":
        return states[rows, mask.argmax(1)]
    if mode == "lasttoken":
        places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
        return states[rows, (mask * places).argmax(1)]
    if mode == "max":
        return states.masked_fill(weights == 0, float("-inf")).amax(1)
    if mode == "weightedmean":
        weights = weights * torch.arange(1, mask.shape[1] + 1, device=mask.device).view(1, -1, 1)
    total, count = (states * weights).sum(1), weights.sum(1).clamp(min=1e-9)
    return total / (count.sqrt() if mode == "mean_sqrt_len_tokens" else count)


def pooled(states: torch.Tensor, mask: torch.Tensor, modes: Sequence[str]) -> torch.Tensor:
    """The vectors of several ways, one after the other (batch, hidden_size * num_modes)."""
    return torch.cat([pool(states, mask, mode) for mode in modes], dim=-1)
