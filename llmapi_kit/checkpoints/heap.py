"""Memory that was freed, and that the C library keeps for itself. Knows nothing of models. Any thread."""

from __future__ import annotations

import ctypes
import sys


def trim_heap() -> None:
    """Hand what was freed back to the system, which glibc keeps for itself; elsewhere nothing.

    A load frees hundreds of megabytes in pieces: weights as they were read, before they were converted. It takes some
    hundredths of a second.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
