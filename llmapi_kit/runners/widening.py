"""Gives the weights of a model another type, where there is memory for it."""

from __future__ import annotations

from typing import Any

import torch

from llmapi_kit.checkpoints.fit import free_memory
from llmapi_kit.errors import ModelTooLargeError


def widen(model: Any, dtype: torch.dtype) -> None:
    """Give a model's weights another type.

    Raises:
        ModelTooLargeError: there is no memory for it.
    """
    more = sum(p.numel() * (dtype.itemsize - p.itemsize) for p in model.parameters())
    if more > (free := free_memory(str(model.device))):
        raise ModelTooLargeError(
            f"Computing in {str(dtype).removeprefix('torch.')} takes {more / 2**30:.1f} GiB more for the weights here, "
            f"and {free / 2**30:.1f} GiB are free. Pass dtype='bfloat16'; or, with a C compiler, Llama-like models "
            "compute in float32 without it."
        )
    model.to(dtype)
