"""What memory a model will take, before it is loaded: so that others can be unloaded for it, and no more than need be.

Reads configurations and file sizes, downloads nothing and imports no torch but to ask a GPU. An estimate: what really
fits is found out when it is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmapi_kit.config import Settings
from llmapi_kit.models.fit import (
    CPU_KV_LIMIT,
    CPU_KV_SHARE,
    DEFAULT_MAX_LENGTH,
    GPU_KV_SHARE,
    MIN_LENGTH,
    Fit,
    check_folder,
)


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What loading a model takes. All zero where nothing is known, or where the model is elsewhere.

    Attributes:
        device: ``cpu`` or ``cuda:0``; empty for a model that is not on this machine.
        least_bytes: with less it does not load.
        wanted_bytes: enough to answer one request of full length.
        most_bytes: what it may come to take.
    """

    device: str = ""
    least_bytes: int = 0
    wanted_bytes: int = 0
    most_bytes: int = 0


def folder_need(path: Path, device: str, dtype: str | None, settings: Settings) -> MemoryNeed:
    """What the model in a folder takes.

    Args:
        path: a folder with config.json and weights.
        device: ``cpu`` or a CUDA device.
        dtype: as asked for; None for the device's own choice.
        settings: KV memory and context.

    Raises:
        ModelLoadError: its config.json is damaged.
    """
    return fit_need(
        check_folder(path, device, dtype=dtype or (None if device.startswith("cuda") else "float32")), settings
    )


def fit_need(fit: Fit, settings: Settings) -> MemoryNeed:
    """What a model takes whose weights and keys and values are known as they will be in memory.

    Args:
        fit: sizes, and what is free.
        settings: KV memory and context.
    """
    on_gpu = fit.device.startswith("cuda")
    weights, per_token = fit.weights_bytes, fit.kv_bytes_per_token
    length = min(settings.context_length or DEFAULT_MAX_LENGTH, fit.context_length or DEFAULT_MAX_LENGTH)
    share = GPU_KV_SHARE if on_gpu else CPU_KV_SHARE
    room = max(0, fit.free_bytes - weights) * share
    most_kv = settings.kv_memory or int(room if on_gpu else min(room, CPU_KV_LIMIT))
    wanted_kv = settings.kv_memory or int(per_token * length / share)
    least_kv = per_token * MIN_LENGTH
    return MemoryNeed(
        fit.device, weights + least_kv, weights + max(wanted_kv, least_kv), weights + max(most_kv, least_kv)
    )
