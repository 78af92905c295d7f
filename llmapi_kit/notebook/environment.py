"""What machine and what notebook this is: named predicates, and one value object that describes the machine.

Only looks: opens no connection, starts no GPU context that torch has not got already, and importing it imports
nothing heavy. Runs in the caller's thread; notebook 01, the doctor and the card call it.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import psutil

from llmapi_kit.places import here, is_colab, is_jupyter_kernel, is_kaggle

GIB = 2**30
PACKAGES = (
    "llmapi-kit",
    "torch",
    "transformers",
    "fastapi",
    "uvicorn",
    "openai",
    "ipykernel",
    "ipywidgets",
    "anywidget",
)


def is_vscode() -> bool:
    """Whether VS Code started this kernel.

    VSCODE_PID is missing in containers and under WSL: https://github.com/holoviz/panel/issues/5200. There is no
    documented way: https://github.com/microsoft/vscode-jupyter/issues/7380.
    """
    return "VSCODE_PID" in os.environ or "VSCODE_CWD" in os.environ


def has_anywidget() -> bool:
    """Whether the card's key row can be a widget."""
    return version_of("anywidget") is not None


def version_of(package: str) -> str | None:
    """The installed version of a package, without importing it; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def place() -> str:
    """Where this runs, in a few words for people."""
    host = here()
    if is_colab() or is_kaggle():
        return host.name if host is not None else ""
    kind = "Python program"
    if is_jupyter_kernel():
        kind = "VS Code notebook" if is_vscode() else "Jupyter kernel"
    return f"{kind}, {host.name}" if host is not None else kind


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU that torch sees.

    Attributes:
        name: as its driver calls it.
        memory_bytes: in total.
    """

    name: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine at one moment. Not a promise: memory and disk are shared with others.

    Attributes:
        place: Colab, Kaggle, a Jupyter kernel or a program.
        python: its version.
        system: the operating system.
        cpu: the processor's name, as far as it is known.
        num_cores: logical cores this process may use.
        memory_bytes: in total.
        free_memory_bytes: available without swapping.
        free_disk_bytes: where the home folder lies.
        gpus: what torch sees; empty without torch.
        versions: of the packages that matter; None for one that is not installed.
    """

    place: str
    python: str
    system: str
    cpu: str
    num_cores: int
    memory_bytes: int
    free_memory_bytes: int
    free_disk_bytes: int
    gpus: tuple[Gpu, ...] = ()
    versions: dict[str, str | None] = field(default_factory=dict)

    def rows(self) -> Iterator[tuple[str, str]]:
        """What it is, as label and value."""
        yield "Runs in", self.place
        yield "Python", f"{self.python} on {self.system}"
        yield "Processor", f"{self.num_cores} cores{', ' + self.cpu if self.cpu else ''}"
        yield "Memory", f"{self.free_memory_bytes / GIB:,.1f} of {self.memory_bytes / GIB:,.1f} GiB free"
        gpus = ", ".join(f"{gpu.name} ({gpu.memory_bytes / GIB:,.0f} GiB)" for gpu in self.gpus)
        yield (
            "GPU",
            gpus or ("none that torch sees" if self.versions.get("torch") else "not known: torch is not installed"),
        )
        yield "Disk", f"{self.free_disk_bytes / GIB:,.1f} GiB free"
        yield "Packages", ", ".join(f"{name} {version or 'missing'}" for name, version in self.versions.items())

    def __str__(self) -> str:
        return "\n".join(f"{label:<10} {value}" for label, value in self.rows())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        cell = 'style="text-align:left;vertical-align:top;padding:2px 12px 2px 0"'
        rows = "".join(
            f'<tr><th scope="row" {cell}>{escape(label)}</th><td {cell}>{escape(value)}</td></tr>'
            for label, value in self.rows()
        )
        return f"<table>{rows}</table>"


def describe_machine() -> Machine:
    """What this machine is and has: place, Python, memory, GPU, disk and packages.

    Imports torch, which takes a moment, where it is installed.

    Examples:
        >>> kit.machine().num_cores >= 1
        True
    """
    memory = psutil.virtual_memory()
    return Machine(
        place=place(),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cpu=_cpu_name(),
        num_cores=num_usable_cores(),
        memory_bytes=int(memory.total),
        free_memory_bytes=int(memory.available),
        free_disk_bytes=shutil.disk_usage(Path.home()).free,
        gpus=see_gpus(),
        versions={name: version_of(name) for name in PACKAGES},
    )


def num_usable_cores() -> int:
    """Logical cores this process may use, which can be fewer than the machine has."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def see_gpus() -> tuple[Gpu, ...]:
    """The GPUs that torch sees; none where torch is missing or broken."""
    if version_of("torch") is None:
        return ()
    try:
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        properties = [torch.cuda.get_device_properties(index) for index in range(count)]
    except (ImportError, OSError, RuntimeError):  # the doctor says what is wrong with it
        return ()
    return tuple(Gpu(str(each.name), int(each.total_memory)) for each in properties)


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
