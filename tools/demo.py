"""`make demo`: runs notebooks 01-04 in real kernels on the pocket model, shows what was asked and answered, serves.

Writes to no notebook. The kernel of 03, which holds the server, lives while 04 talks to it, and on until Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import FrameType

from notebook_runner import NotebookError, RunningNotebook, Step, open_notebook

from llmapi_kit.client.running_servers import RunningServers, ServerRecord
from llmapi_kit.config import load_settings
from llmapi_kit.errors import PortInUseError
from llmapi_kit.notebook.show import read_exchanges
from llmapi_kit.notebook.snippets import curl_snippet
from llmapi_kit.server.port import bind

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
MODEL = "pocket"
FIRST_PORT, NUM_PORTS = 8000, 100


def main(arguments: list[str] | None = None) -> int:
    """Run the demonstration; returns the exit status."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, _raise_interrupt)
    try:
        with contextlib.ExitStack() as kernels:
            return _demonstrate(options, kernels)
    except NotebookError as exc:
        print(f"\nThe demo failed. {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.")
        return 0 if options.is_serving else 130


def _demonstrate(options: argparse.Namespace, kernels: contextlib.ExitStack) -> int:
    port = options.port or free_port()
    print(f"Running notebooks 01-04 on the {MODEL} model, with the server on port {port}.")
    if not options.port and port != FIRST_PORT:
        print(f"(Port {FIRST_PORT} is in use.)")
    _run(options.notebooks / "01_setup.ipynb", {}, kernels).close()
    _run(options.notebooks / "02_load_model.ipynb", {"MODEL": MODEL}, kernels).close()
    launched = _run(options.notebooks / "03_launch_server.ipynb", {"MODEL": MODEL, "PORT": port}, kernels)
    record = _find_server(port)
    client = _run(options.notebooks / "04_test_client.ipynb", {"URL": record.url}, kernels)
    client.close()
    exchanges = [pair for cell in client.nb.cells for pair in read_exchanges(cell.get("outputs", []))]
    if not exchanges:
        raise NotebookError("04_test_client.ipynb shows no question and answer.")
    print("\nAsked in notebook 04, and answered by the server of notebook 03:\n")
    for question, answer in exchanges:
        print(_wrapped(question, "  > "))
        print(_wrapped(answer, "    "), end="\n\n")
    key_file = RunningServers(load_settings()).key_file(record)
    print(f"The server:  {record.url}/v1")
    print(f"Its key:     in {key_file}")
    if options.exit:
        print("\nAll notebooks passed.")
        return 0
    print(f"\nTry it from another terminal:\n\n{curl_snippet(record.url, str(key_file), record.models[0])}\n")
    print("Serving until Ctrl-C.", flush=True)
    options.is_serving = True
    while launched.is_alive():
        time.sleep(0.5)
    print("The kernel of notebook 03 died, and the server with it.", file=sys.stderr)
    return 1


def _run(path: Path, parameters: dict[str, object], kernels: contextlib.ExitStack) -> RunningNotebook:
    """Run one notebook with progress; its kernel is left running."""
    with Progress(path.stem) as progress:
        notebook = kernels.enter_context(open_notebook(path, parameters))
        notebook.run(progress.show)
    return notebook


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(text, 100, initial_indent=indent, subsequent_indent="    ")


def free_port() -> int:
    """The first free port from 8000 on.

    Raises:
        NotebookError: a hundred ports are taken.
    """
    for port in range(FIRST_PORT, FIRST_PORT + NUM_PORTS):
        with contextlib.suppress(PortInUseError):
            bind("127.0.0.1", port).close()
            return port
    raise NotebookError(f"No port from {FIRST_PORT} to {FIRST_PORT + NUM_PORTS - 1} is free. Choose one with --port.")


def _find_server(port: int) -> ServerRecord:
    for record in RunningServers(load_settings()).running():
        if record.port == port:
            return record
    raise NotebookError(f"Notebook 03 ran, but no server is registered on port {port}.")


class Progress:
    """Says which cell runs and for how long: on a terminal in one line that moves, elsewhere a line a cell.

    Args:
        name: of the notebook.
    """

    def __init__(self, name: str) -> None:
        self._text = f"{name}  starting a kernel"
        self._is_tty = sys.stdout.isatty()
        self._started = time.perf_counter()
        self._name, self._cell_started = name, self._started
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="demo progress", daemon=True)

    def __enter__(self) -> Progress:
        print(f"\n{self._name}", flush=True)
        if self._is_tty:
            self._ticker.start()
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self._done.set()
        if self._is_tty:
            self._ticker.join()
        verdict = "done in" if kind is None else "stopped after"
        self._line(f"  {verdict} {time.perf_counter() - self._started:.1f} s")

    def show(self, step: Step) -> None:
        """Report a cell that begins, or has ended."""
        text = f"  {step.number:>2}/{step.total}  {step.title:<28}"
        with self._lock:
            self._text, self._cell_started = text, time.perf_counter()
        if step.seconds is not None:
            self._line(f"{text} {step.seconds:5.1f} s")

    def _line(self, text: str) -> None:
        with self._lock:
            sys.stdout.write(f"\r\x1b[K{text}\n" if self._is_tty else f"{text}\n")
            sys.stdout.flush()

    def _tick(self) -> None:
        while not self._done.wait(0.2):
            with self._lock:
                line = f"{self._text} {time.perf_counter() - self._cell_started:5.1f} s"
                sys.stdout.write(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}")
                sys.stdout.flush()


def _raise_interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--exit", action="store_true", help="end after the notebooks instead of serving on")
    parser.add_argument(
        "--port",
        type=int,
        default=int(os.environ.get("DEMO_PORT", "0")),
        help="for the server; default: DEMO_PORT, else the first free one from 8000 on",
    )
    parser.add_argument("--notebooks", type=Path, default=NOTEBOOKS, help="the folder with the notebooks")
    options = parser.parse_args(arguments)
    options.is_serving = False
    return options


if __name__ == "__main__":
    sys.exit(main())
