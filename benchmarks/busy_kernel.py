"""Serves a model as a kernel does, for `benchmarks.engine_process`: a thread serves, the main thread is the cell.

SIGUSR1 begins a cell that computes in pure Python without an end, SIGUSR2 ends it. Serves until SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
from types import FrameType

import llmapi_kit as kit


def main() -> None:
    """Serve, and be busy when told to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dtype")
    parser.add_argument("--process", action="store_true", help="the model in a process of its own")
    args = parser.parse_args()
    is_busy, done = threading.Event(), threading.Event()

    def on_signal(number: int, _: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            is_busy.set()
        elif number == signal.SIGUSR2:
            is_busy.clear()
        else:
            done.set()

    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    model = kit.load(args.model, dtype=args.dtype, process=args.process)
    server = kit.launch(model, port=args.port, api_key=os.environ["LLMAPI_KIT_API_KEY"])
    while not done.is_set():
        while is_busy.is_set() and not done.is_set():
            pass
        done.wait(0.05)
    server.stop(0)


if __name__ == "__main__":
    main()
