"""Memory of tensors that are mapped from files, which the system reads in as they are used.

Such pages count as the process's own until they are let go of; what was read once stays in the system's cache of
files. Knows nothing of models. Any thread. Linux only; elsewhere nothing is let go of.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Of an entry of pagemap. Source: https://docs.kernel.org/admin-guide/mm/pagemap.html
PRESENT, SWAPPED, OF_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))


def drop_pages(tensor: torch.Tensor) -> None:
    """Let go of a tensor's pages that are as they stand in a file; used again, they are read in again.

    So are pages between the parts of a view. A tensor with a page of its own, because it was written to or was never
    mapped, is left alone.
    """
    if (madvise := _madvise()) is None or tensor.device.type != "cpu" or not tensor.numel():
        return
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    first = -(-tensor.data_ptr() // mmap.PAGESIZE)
    num_pages = (tensor.data_ptr() + (last + 1) * tensor.itemsize) // mmap.PAGESIZE - first
    if num_pages > 0 and not _has_own_pages(first, num_pages):
        madvise(first * mmap.PAGESIZE, num_pages * mmap.PAGESIZE, mmap.MADV_DONTNEED)


def drop_unused_pages(model: torch.nn.Module, files: Collection[Path]) -> None:
    """Let go of pages of a model's files that hold none of its weights any more, as they were made into others.

    Other weights of the same file keep it mapped as a whole.
    """
    if (madvise := _madvise()) is None:
        return
    names = {os.fspath(file.resolve()) for file in files}
    used = sorted((weight.data_ptr(), weight.data_ptr() + weight.nbytes) for weight in model.state_dict().values())
    for start, end in _mappings(names):
        for first, last in _gaps(start, end, used):
            if not _has_own_pages(first // mmap.PAGESIZE, (last - first) // mmap.PAGESIZE):
                madvise(first, last - first, mmap.MADV_DONTNEED)


def _mappings(names: Collection[str]) -> Iterator[tuple[int, int]]:
    """Addresses from … to … where files are mapped."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        place, _, _, _, _, *name = line.split(maxsplit=5)
        if name and name[0] in names:
            start, end = place.split("-")
            yield int(start, 16), int(end, 16)


def _gaps(start: int, end: int, used: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Whole pages of a range that lie in no used one; these are in order."""
    for first, last in [*used, (end, end)]:
        if last <= start:
            continue
        low, high = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, min(first, end) // mmap.PAGESIZE * mmap.PAGESIZE
        if low < high:
            yield low, high
        start = max(start, last)
        if first >= end:
            return


@contextlib.contextmanager
def dropping_pages(model: torch.nn.Module) -> Iterator[None]:
    """While it lasts, each module lets go of its weights' pages once it was run: see `drop_pages`."""

    def drop(module: torch.nn.Module, *_: Any) -> None:
        for weight in module.parameters(recurse=False):
            drop_pages(weight)

    hooks = [module.register_forward_hook(drop) for module in model.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if not hasattr(mmap, "MADV_DONTNEED") or not os.path.exists("/proc/self/pagemap"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int), ctypes.c_int
    return function


def _has_own_pages(first: int, num_pages: int) -> bool:
    """Whether a range has a page that is in no file, or nobody can say."""
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            raw = os.pread(pagemap.fileno(), 8 * num_pages, 8 * first)
    except OSError:
        return True
    entries = np.frombuffer(raw, np.uint64)
    is_own = ((entries & (PRESENT | SWAPPED)) != 0) & ((entries & OF_FILE) == 0)
    return len(entries) < num_pages or bool(is_own.any())
