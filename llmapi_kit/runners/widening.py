"""Gives the weights of a model another type, where there is memory for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
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
            f"and {free / 2**30:.1f} GiB are free. Pass dtype='bfloat16'; or, with a C compiler, models that the "
            "compiled step knows compute in float32 without it."
        )
    model.to(dtype)


@contextlib.contextmanager
def widened(model: torch.nn.Module) -> Iterator[None]:
    """While it lasts, a model computes in float32: each module has its weights in it as long as it runs, and no other.

    A router of experts whose scores are rounded to 16 bits chooses others than in float32 now and then, and with that
    computes something else.
    """
    narrow: dict[torch.nn.Parameter, torch.Tensor] = {}

    def widen_own(module: torch.nn.Module, *_: Any) -> None:
        for weight in module.parameters(recurse=False):
            narrow[weight] = weight.data
            weight.data = weight.data.float()

    def narrow_own(module: torch.nn.Module, *_: Any) -> None:
        for weight in module.parameters(recurse=False):
            weight.data = narrow.pop(weight)

    hooks = [module.register_forward_pre_hook(widen_own) for module in model.modules()]
    hooks += [module.register_forward_hook(narrow_own, always_call=True) for module in model.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
