"""Where a model is loaded, what its weights are computed with there, and what they are kept in.

Loads nothing; asks torch which GPUs there are.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import transformers

from llmapi_kit.checkpoints.load_options import ON_CPU, check_device, check_dtype, check_quantize
from llmapi_kit.checkpoints.spec import ModelSpec
from llmapi_kit.errors import ConfigError

# What `quantize` makes of weights, for estimates
LOADED_AS = {"8bit": "int8", "4bit": "int4"}


def pick_device(device: str | None) -> str:
    """The device to load on: the first GPU if there is one, else the CPU.

    Raises:
        ConfigError: `device` names a GPU that is not there.
    """
    if device is None:
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    check_device(device)
    if device == "cpu":
        return device
    if not torch.cuda.is_available():
        raise ConfigError(f"device={device!r}, but torch sees no GPU here. Use device='cpu', or choose a GPU runtime.")
    number, count = int(device.partition(":")[2] or 0), torch.cuda.device_count()
    if number >= count:
        raise ConfigError(f"device={device!r}, but torch sees {count} GPUs here; the last is cuda:{count - 1}.")
    return f"cuda:{number}"


def pick_dtype(dtype: str | None, device: str) -> torch.dtype | str:
    """The type of arithmetic: as asked for; float32 on a CPU; on a GPU the model's own, or float16 on old cards."""
    check_dtype(dtype)
    if dtype is not None:
        return cast(torch.dtype, getattr(torch, dtype))
    if device == "cpu":
        return torch.float32
    return "auto" if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def pick_quantization(quantize: str | None, device: str, spec: ModelSpec) -> dict[str, Any]:
    """Arguments of `from_pretrained` that keep weights in 8 or 4 bits on a GPU; none where that is not asked for.

    Raises:
        ConfigError: it is not known, or not possible on this device.
        MissingDependencyError: the package for it is not installed.
    """
    check_quantize(quantize, device, spec)
    if quantize is None or quantize in ON_CPU:
        return {}
    if quantize == "8bit":
        config = transformers.BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    else:
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        config = transformers.BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16 if has_bfloat16 else torch.float16,
        )
    return {"quantization_config": config, "device_map": {"": device}}
