"""Memory that the system provides when it is written to, and takes back in part.

So the slots of a runner on a CPU may be as many and as long as one likes: they take what their sequences take. Knows
nothing of slots. Any thread.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
from collections.abc import Iterable

# Python names it from 3.13 on; so much need not be there to be promised
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class LazyMemory:
    """Zeros that take memory once they are written to.

    Args:
        num_bytes: how many.
        has_large_pages: in pages of 2 MiB where the system has them. With small ones a step spends a part of its time
            on finding them: a seventh of attention over 1,600 positions.

    Attributes:
        buffer: the bytes.
    """

    def __init__(self, num_bytes: int, *, has_large_pages: bool = False) -> None:
        # Shared memory, which is Python's default, gets no large pages and is not given back
        private = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)
        flags = {"flags": private | _NORESERVE} if private else {}
        self.buffer = mmap.mmap(-1, max(1, num_bytes), **flags)
        if has_large_pages and hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without them
                self.buffer.madvise(mmap.MADV_HUGEPAGE)

    def give_back(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Give the memory of bytes from … to … back, which are zeros then; of pages, those that are whole in there.

        Where the system has no way to do it, they stay as they are.
        """
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        for start, end in ranges:
            first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
            if first < last:
                self.buffer.madvise(mmap.MADV_DONTNEED, first, last - first)
