"""Threads that can recurse deep, for libraries whose recursion is as deep as what strangers send is long."""

from __future__ import annotations

import threading
from collections.abc import Callable

STACK_BYTES = 64 << 20  # only what is used of it takes memory

_lock = threading.Lock()  # the size is one for all threads that are started


def start_with_large_stack(target: Callable[..., None], *args: object, name: str) -> threading.Thread:
    """Start a daemon thread."""
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    with _lock:
        before = threading.stack_size(STACK_BYTES)
        try:
            thread.start()
        finally:
            threading.stack_size(before)
    return thread
