"""The machine as the chooser sees it: where a model would run, and what is free there and on the disk.

Imports torch only where there may be a GPU, as that takes seconds.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from llmapi_kit.checkpoints.fit import free_memory
from llmapi_kit.checkpoints.hub_cache import cache_folder, free_disk_bytes
from llmapi_kit.checkpoints.needs import default_precision, precisions_of
from llmapi_kit.notebook.environment import see_gpus

GIB = 2**30
GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


@dataclass(frozen=True, slots=True)
class ChooserMachine:
    """A machine at one moment.

    Attributes:
        device: ``cpu`` or ``cuda:0``.
        device_name: for people.
        free_bytes: memory of the device.
        total_bytes: of the same.
        free_disk_bytes: where downloads go.
        disk: where that is.
    """

    device: str
    device_name: str
    free_bytes: int
    total_bytes: int
    free_disk_bytes: int
    disk: str

    def precisions(self, stored: str) -> tuple[str, ...]:
        """Number formats for weights that are stored in one, the one first that `kit.load` takes by itself."""
        possible = precisions_of("cpu") if self.device == "cpu" else ("bfloat16", "8bit", "float32")
        first = default_precision(self.device, stored)
        return (first, *(each for each in possible if each != first))

    def __str__(self) -> str:
        memory = f"{self.free_bytes / GIB:,.1f} of {self.total_bytes / GIB:,.1f} GiB of memory free"
        return f"{self.device_name}, {memory}; {self.free_disk_bytes / GIB:,.1f} GiB of disk free"


def look_at_machine() -> ChooserMachine:
    """Where a model would be loaded here."""
    gpus = see_gpus() if may_have_gpu() else ()
    device = "cuda:0" if gpus else "cpu"
    total = gpus[0].memory_bytes if gpus else int(psutil.virtual_memory().total)
    name = gpus[0].name if gpus else "CPU, no GPU"
    return ChooserMachine(device, name, free_memory(device), total, free_disk_bytes(), str(cache_folder()))


def may_have_gpu() -> bool:
    """Whether it is worth asking torch; False is certain."""
    return (
        "torch" in sys.modules
        or shutil.which("nvidia-smi") is not None
        or any(Path(device).exists() for device in GPU_DEVICES)
    )
