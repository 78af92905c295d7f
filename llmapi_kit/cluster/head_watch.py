"""Whether the cluster's head answers, for a process that is a part of the cluster: Ray ends such a process without one.

Ray does so from C++, and without a word to Python, when the head was out of reach for as long as `OPTION` says. A
kernel must not end like that. It can't leave such a cluster either: after `ray.shutdown` Ray ends a process whose
threads still ask for something, and those of Ray Serve do. So it stays, and asks for nothing more.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OPTION = "RAY_gcs_rpc_server_reconnect_timeout_s"  # read by `ray.init`, and not after that
STAY_S = 7 * 86400
LOST_AFTER_S = 60.0  # a head that fails over is back by then
ASK_EVERY_S, ANSWER_S = 2.0, 5.0


@contextmanager
def staying() -> Iterator[None]:
    """A connection made inside outlives the head, unless the environment says otherwise."""
    is_set = OPTION in os.environ
    os.environ.setdefault(OPTION, str(STAY_S))
    try:
        yield
    finally:
        if not is_set:
            del os.environ[OPTION]


def watch(on_lost: Callable[[], None]) -> Callable[[], None]:
    """Watch the head of the cluster that this process is a part of, in a thread of its own.

    Args:
        on_lost: called once, by that thread, when the head was out of reach for `LOST_AFTER_S`.

    Returns:
        Ends it.
    """
    import ray

    address, over = ray.get_runtime_context().gcs_address, threading.Event()

    def run() -> None:
        if _is_lost(address, over):
            on_lost()

    threading.Thread(target=run, name="llmapi_kit cluster head", daemon=True).start()
    return over.set


def _is_lost(address: str, over: threading.Event) -> bool:
    """Wait until the head has been out of reach for too long, or nobody wants to know any more.

    What is counted are this thread's own questions, so that one who was suspended finds the head as it was.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import RpcError

    client = GcsClient(address=address)
    silent_s = 0.0
    while silent_s < LOST_AFTER_S:
        if over.wait(ASK_EVERY_S):
            return False
        asked_at = time.monotonic()
        try:
            client.check_alive([], timeout=ANSWER_S)
        except RpcError:
            silent_s += ASK_EVERY_S + min(time.monotonic() - asked_at, ANSWER_S)
        else:
            silent_s = 0.0
    return True
