"""What can be tested on the device that was chosen."""

from __future__ import annotations

import gc
import os

import torch

# Read here, as each test's environment is cleaned
DEVICE = torch.device(os.environ.get("LLMAPI_KIT_GPU_CHECK_DEVICE", "cuda:0"))
IS_CUDA = DEVICE.type == "cuda"
CAPABILITY = torch.cuda.get_device_capability(DEVICE) if IS_CUDA and torch.cuda.is_available() else (0, 0)
DTYPE = torch.bfloat16 if not IS_CUDA or CAPABILITY >= (8, 0) else torch.float16
# How a step runs: the model's own modules, the layers written out, those in fixed shapes (recorded on CUDA) with SDPA
# or with variable-length attention, which is CUDA's from Ampere on
FORMS = ["modules", "eager", "sdpa", *(["varlen"] if CAPABILITY >= (8, 0) else [])]
DEVICES = [f"cuda:{number}" for number in range(max(1, min(2, torch.cuda.device_count())))] if IS_CUDA else ["cpu"]


def allocated_bytes() -> int:
    """Bytes of all tensors that are alive on the device."""
    gc.collect()
    if IS_CUDA:
        return torch.cuda.memory_allocated(DEVICE)
    tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
    return sum(storages.values())


def reserved_bytes() -> int:
    """Bytes that torch holds of the device, in use or not."""
    return torch.cuda.memory_reserved(DEVICE) if IS_CUDA else allocated_bytes()
