"""A model whose layers are on several devices, as accelerate places them: what may be asked, and where they came to be.

Knows nothing of weights. What the values mean is transformers' to say (``device_map``).
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from llmapi_kit.errors import ConfigError, MissingDependencyError, ModelTooLargeError

NAMES = ("auto", "balanced", "balanced_low_0", "sequential")


def check_device_map(given: Any) -> None:
    """Raise unless layers can be placed so.

    Raises:
        ConfigError: it is no way to place them, or would leave some where nothing is computed.
        MissingDependencyError: accelerate is not installed.
    """
    if isinstance(given, str) and given not in NAMES:
        raise ConfigError(f"device_map is {given!r}; it must be {', '.join(NAMES)}, or a dictionary.")
    if not isinstance(given, str | Mapping) or not given:
        raise ConfigError(f"device_map is {given!r}; it must be a name such as 'auto', or a dictionary.")
    for part, device in given.items() if isinstance(given, Mapping) else ():
        is_device = isinstance(device, int | str) and not isinstance(device, bool)
        if not isinstance(part, str) or not is_device or str(device) in ("disk", "meta"):
            raise ConfigError(
                f"device_map has {part!r}: {device!r}; it takes names of modules with numbers of GPUs, 'cuda:0' or "
                "'cpu'. Weights that are on disk, or nowhere, can't be computed with."
            )
    if importlib.util.find_spec("accelerate") is None:
        raise MissingDependencyError("accelerate", "quant", "device_map")


def check_placed(model: Any, name: str) -> None:
    """Raise `ModelTooLargeError` where accelerate left weights beside the devices that compute."""
    devices = {str(device) for device in _places(model).values()}
    if left := devices & {"disk", "meta"} or (devices & {"cpu"} if len(devices) > 1 else set()):
        raise ModelTooLargeError(
            f"{name} does not fit on the GPUs: device_map left a part of it on {' and '.join(sorted(left))}, and every "
            "step would fetch that. Take fewer bits with dtype or quantize, a smaller model, or more GPUs."
        )


def free_beside(model: Any, free_memory: Callable[[str], int]) -> int:
    """Bytes free for keys and values of all layers, which are where their layers are.

    Args:
        model: of transformers, with its weights.
        free_memory: bytes that are free on a device.
    """
    layers = Counter(_device_name(each) for part, each in _places(model).items() if part.split(".")[-1].isdigit())
    if not layers:
        return free_memory(str(model.device))
    return min(free_memory(device) * layers.total() // number for device, number in layers.items())


def _places(model: Any) -> Mapping[str, Any]:
    return getattr(model, "hf_device_map", None) or {"": model.device}


def _device_name(device: Any) -> str:
    return f"cuda:{device}" if isinstance(device, int) else str(device)
