"""Does a model compute numbers at all: said of its weights, before anything else is tried with it."""

from __future__ import annotations

from typing import Any

import torch

from llmapi_kit.errors import LlmApiKitError, ModelLoadError, UnsupportedModelError


def check_finite(model: Any, logits: torch.Tensor) -> None:
    """Raise unless logits are finite numbers.

    Args:
        model: of transformers, which computed them.
        logits: of any shape.

    Raises:
        ModelLoadError: a weight is not a finite number; the message names it.
        UnsupportedModelError: the number format is too narrow for the model.
    """
    if not bool(torch.isfinite(logits).all()):
        raise not_finite(model)


def not_finite(model: Any) -> LlmApiKitError:
    """Why a model's logits are not numbers."""
    name = type(model).__name__
    broken = [key for key, weight in model.named_parameters() if not bool(torch.isfinite(weight).all())]
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        return ModelLoadError(
            f"{name}: the weight {broken[0]}{more} has values that are not finite numbers. Download it again."
        )
    dtype = str(model.dtype).removeprefix("torch.")
    return UnsupportedModelError(
        f"{name} computes numbers that are not finite in {dtype}. Load it with dtype='float32' or 'bfloat16'."
    )
