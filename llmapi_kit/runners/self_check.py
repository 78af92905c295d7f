"""Does a runner compute over slots what its model computes by itself: tried once, before the first request.

What it finds: masks and positions that are wrong in some family, weights that were taken over in a wrong order, and
compilers and processors that compute something else. Knows nothing of how a runner computes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch

from llmapi_kit.errors import UnsupportedModelError
from llmapi_kit.runners.base import StepItem

logger = logging.getLogger(__name__)

NUM_TOKENS = 12  # well past `short_spans.SHORT`


def check_ids(vocab_size: int, max_length: int) -> list[int]:
    """A prompt to check with."""
    return [(97 * i + 11) % vocab_size for i in range(min(NUM_TOKENS, max_length))]


def check_prompts(vocab_size: int, max_length: int, num_slots: int) -> list[list[int]]:
    """Prompts of different lengths to check with, as many as there are slots, two at the most."""
    ids = check_ids(vocab_size, max_length)
    return [ids, ids[::-1][: max(1, len(ids) * 3 // 4)]][:num_slots]


def check_steps(
    step: Callable[[Sequence[StepItem]], torch.Tensor],
    prompts: Sequence[Sequence[int]],
    expected: torch.Tensor,
    name: str,
    advice: str = "",
) -> None:
    """Compute prompts in chunks and decodes, side by side in one step each, and compare.

    Args:
        step: of the runner.
        prompts: of `check_prompts`; each has a slot.
        expected: (prompts, vocab) logits after each of them, as the model computes them by itself.
        name: of the model's class, for messages.
        advice: what to do where they differ.

    Raises:
        UnsupportedModelError: a step failed, or the logits differ.
    """
    # The first decodes while the second, which is shorter, is still in its prompt; they end together. Of the last
    # step's tokens, only some are asked for logits
    ends = [(len(prompts[0]) // 2, len(prompts[0]) - 2, len(prompts[0]) - 1, len(prompts[0]))]
    ends += [(len(ids) // 3, len(ids) // 3, len(ids) // 3 + 1, len(ids)) for ids in prompts[1:]]
    done = [0] * len(prompts)
    try:
        for turn in range(4):
            items = []
            for slot, ids in enumerate(prompts):
                end = max(done[slot], ends[slot][turn])
                if end > done[slot]:
                    items.append(StepItem(slot, done[slot], ids[done[slot] : end], turn == 3))
                done[slot] = end
            logits = step(items) if items else expected
        # Once more as decodes alone, which some runners compute in another way
        decodes = [StepItem(slot, len(ids) - 1, ids[-1:], True) for slot, ids in enumerate(prompts)]
        decoded = step(decodes)
    except UnsupportedModelError:
        raise
    except Exception as exc:
        raise UnsupportedModelError(
            f"{name} does not run with attention over slots: {type(exc).__name__}: {exc}"
        ) from exc
    _compare(logits, expected, name, advice)
    _compare(decoded, expected, name, advice)


def are_close(logits: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether logits differ by no more than the order of arithmetic explains."""
    # bf16 and fp16 keep 8 and 11 bits; a wrong mask or position moves logits by far more.
    difference, scale = _difference(logits, expected)
    return difference <= 1e-3 + (0.1 if expected.dtype != torch.float32 else 1e-3) * scale


def _difference(logits: torch.Tensor, expected: torch.Tensor) -> tuple[float, float]:
    """The largest difference, and the largest logit."""
    return (logits - expected).float().abs().max().item(), expected.float().abs().max().item()


def _compare(logits: torch.Tensor, expected: torch.Tensor, name: str, advice: str) -> None:
    difference, scale = _difference(logits, expected)
    if not are_close(logits, expected):
        raise UnsupportedModelError(
            f"{name} gives other logits over slots than by itself (largest difference {difference:.3g} at "
            f"logits up to {scale:.3g}); its attention or its position handling is not supported.{advice}"
        )
    logger.debug("%s: self-check passed, largest difference %.3g", name, difference)
