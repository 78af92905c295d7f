"""Log-probabilities that no sampling needs: of a prompt's tokens, and of the continuations of a beam search.

Knows nothing of requests or slots. Engine thread only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llmapi_kit.sampling.sampler import Sampled


def score(logits: torch.Tensor, token_ids: Sequence[int], num_top: int) -> list[Sampled]:
    """How likely given tokens were.

    Args:
        logits: (n, vocab), row i from the position before token i.
        token_ids: n tokens.
        num_top: how many of the most likely tokens to report beside each.
    """
    logprobs = logits.float().log_softmax(-1)
    own = logprobs.gather(1, torch.tensor(token_ids, device=logits.device)[:, None])[:, 0].tolist()
    values, ids = logprobs.topk(num_top, dim=-1)
    tops = [tuple(zip(*row, strict=True)) for row in zip(ids.tolist(), values.tolist(), strict=True)]
    return [Sampled(*row) for row in zip(token_ids, own, tops, strict=True)]


def best_continuations(logits: torch.Tensor, scores: Sequence[float], num: int) -> list[tuple[float, int, int]]:
    """The continuations of several beams with the highest sum of log-probabilities.

    Args:
        logits: (num_beams, vocab).
        scores: sum of the log-probabilities of each beam so far.
        num: how many to give; fewer where the vocabulary has not so many.

    Returns:
        (score, beam, token id), best first.
    """
    totals = logits.float().log_softmax(-1) + torch.tensor(scores, device=logits.device)[:, None]
    values, indices = totals.flatten().topk(min(num, totals.numel()))
    vocab = totals.shape[1]
    pairs = zip(values.tolist(), indices.tolist(), strict=True)
    return [(value, index // vocab, index % vocab) for value, index in pairs]
