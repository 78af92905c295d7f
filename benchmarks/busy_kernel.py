"""Serves a model as a kernel does, for `benchmarks.engine_process`: a thread serves, the main thread is the cell.

What the cell does, one of `CELLS`, is read from a file when SIGUSR1 comes. Serves until SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType

import numpy as np

import llmapi_kit as kit
from benchmarks.timed_engine import TimedBatch
from llmapi_kit.engines.base import Engine
from llmapi_kit.engines.process.engine import ProcessEngine

TIMED = "timed"
STEP_S = 0.002
MATRIX = np.random.default_rng(0).random((256, 256))


def compute_in_python() -> None:
    """A while, as a cell does that never ends."""
    for _ in range(100_000):
        pass


CELLS: dict[str, Callable[[], object]] = {
    "idle": partial(time.sleep, 0.05),
    "busy": compute_in_python,
    "numpy": lambda: MATRIX @ MATRIX,
    "sleeping": partial(time.sleep, 0.001),
}


def main() -> None:
    """Serve, and do in the main thread what the file says."""
    args = _parse()
    cell, done = ["idle"], threading.Event()

    def on_signal(number: int, _: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            cell[0] = args.cell.read_text()
        else:
            done.set()

    for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    server = kit.launch(_load(args), port=args.port, api_key=os.environ["LLMAPI_KIT_API_KEY"])
    while not done.is_set():
        CELLS[cell[0]]()
    server.stop(0)


def _load(args: argparse.Namespace) -> Engine:
    if args.model != TIMED:
        return kit.load(args.model, dtype=args.dtype, process=args.process)
    make_engine = partial(TimedBatch, name=TIMED, step_s=STEP_S)
    return ProcessEngine(make_engine, name=TIMED) if args.process else make_engine()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help=f"a folder, or {TIMED}: {STEP_S * 1000:g} ms a step, and nothing computed")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--cell", type=Path, required=True, help="the file that says what the cell does")
    parser.add_argument("--dtype")
    parser.add_argument("--process", action="store_true", help="the model in a process of its own")
    return parser.parse_args()


if __name__ == "__main__":
    main()
