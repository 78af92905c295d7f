"""Runs a notebook in a real Jupyter kernel, cell by cell, with parameters of one's own.

`make demo` and the tests use it. Never writes to the notebook's file. Runs in the caller's thread, which has to be
the main one where Ctrl-C shall end it; each kernel is a process of its own, in a session of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from jupyter_core.utils import ensure_event_loop, run_sync
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

ANSI = re.compile(r"\x1b\[[0-9;]*m")
PARAMETERS, INJECTED = "parameters", "injected-parameters"
START_TIMEOUT_S = 60
LOG_TAIL = 2000  # characters
# A process that ends looks for cycles of objects in all that it has, a second's work where torch is imported. After all
# else that runs at exit there is nothing left to find.
END_SOON = "--IPKernelApp.exec_lines=__import__('atexit').register(__import__('gc').freeze)"


class NotebookError(Exception):
    """A cell of a notebook failed; the message names notebook and cell and holds the traceback."""


@dataclass(frozen=True)
class Step:
    """One cell on its way.

    Attributes:
        notebook: its file's name without the ending.
        number: of the code cell, from 1.
        total: code cells in the notebook.
        title: the heading above it.
        seconds: how long it took; None when it begins.
    """

    notebook: str
    number: int
    total: int
    title: str
    seconds: float | None = None


class RunningNotebook:
    """A notebook and the kernel that ran it, which lives until `close`.

    Args:
        path: of the notebook.
        parameters: replace those of its parameters cell.
        env: the kernel's environment; this process's unless given.
        cell_timeout_s: for each cell.
    """

    def __init__(
        self,
        path: Path,
        parameters: Mapping[str, object] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        cell_timeout_s: float = 300,
    ) -> None:
        self.name = path.stem
        self.nb = inject_parameters(nbformat.read(path, as_version=4), parameters or {})
        # A kernel of this very Python, wherever else one is registered under the same name
        os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
        resources = {"metadata": {"path": str(path.resolve().parent)}}
        self._client = NotebookClient(
            self.nb,
            resources=resources,
            kernel_name="python3",
            timeout=cell_timeout_s,
            startup_timeout=START_TIMEOUT_S,
            shutdown_kernel="graceful",
            extra_arguments=[END_SOON],
        )
        self._env = dict(os.environ if env is None else env)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - what the kernel itself says; `close` closes it

    def start(self) -> None:
        """Start the kernel and wait until it answers.

        Raises:
            NotebookError: it does not; the message has its last words.
        """
        self._client.create_kernel_manager()
        try:
            self._client.start_new_kernel(env=self._env, stdout=self._log, stderr=self._log)
            self._client.start_new_kernel_client()
        except RuntimeError as exc:
            raise NotebookError(f"{self.name}.ipynb: the kernel did not start.\n\n{self._last_words()}") from exc

    def run(self, on_step: Callable[[Step], None] = lambda step: None) -> NotebookNode:
        """Execute every cell in order; returns the notebook with its outputs and the state of its widgets.

        Args:
            on_step: called before and after each code cell.

        Raises:
            NotebookError: a cell failed or took too long, or the kernel died.
        """
        self._client.reset_execution_trackers()
        code = [cell for cell in self.nb.cells if cell.cell_type == "code"]
        for cell, title in _with_titles(self.nb):
            step = Step(self.name, code.index(cell) + 1, len(code), title)
            on_step(step)
            started = time.perf_counter()
            try:
                self._client.execute_cell(cell, self.nb.cells.index(cell))
            except (CellExecutionError, DeadKernelError, TimeoutError) as exc:
                raise NotebookError(self._explain(step, cell, exc)) from exc
            on_step(Step(self.name, step.number, step.total, title, time.perf_counter() - started))
        self._client.set_widgets_metadata()
        return self.nb

    def switch_to(self, path: Path, parameters: Mapping[str, object] | None = None) -> None:
        """Go on with another notebook in the same kernel, where the names of this one are gone; servers stay.

        Raises:
            NotebookError: the kernel died, or does not answer.
        """
        self.execute("%reset -f")
        self.name = path.stem
        self.nb = self._client.nb = inject_parameters(nbformat.read(path, as_version=4), parameters or {})

    def execute(self, source: str) -> None:
        """Run code in the kernel that is no cell of the notebook.

        Raises:
            NotebookError: it failed or took too long, or the kernel died.
        """
        nb, self.nb = self.nb, new_notebook(cells=[new_code_cell(source, id="between")])
        self._client.nb = self.nb
        try:
            self.run()
        finally:
            self.nb = self._client.nb = nb

    def is_alive(self) -> bool:
        """Whether the kernel's process runs."""
        return self._client.km is not None and bool(run_sync(self._client.km.is_alive)())

    def close(self) -> None:
        """Shut the kernel down, in good order if it still listens. Safe to call twice."""
        _cancel_tasks()
        manager, self._client.km = self._client.km, None
        if self._client.kc is not None:
            self._client.kc.stop_channels()
            self._client.kc = None
        if manager is not None and manager.has_kernel:
            run_sync(manager.shutdown_kernel)(now=False)
            run_sync(manager.cleanup_resources)()
        self._log.close()

    def _explain(self, step: Step, cell: NotebookNode, exc: Exception) -> str:
        where = f"{step.notebook}.ipynb, code cell {step.number} of {step.total} ({step.title})"
        if isinstance(exc, DeadKernelError):
            return f"{where}: the kernel died.\n\n{self._last_words()}"
        if isinstance(exc, TimeoutError):
            return f"{where}: the cell did not end in time."
        lines = [line for output in cell.outputs if output.output_type == "error" for line in output.traceback]
        return f"{where} failed:\n\n" + ANSI.sub("", "\n".join(lines) or str(exc))

    def _last_words(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-LOG_TAIL:].strip()


def _cancel_tasks() -> None:
    """End what an interrupted cell left on nbclient's loop; its tasks would complain when the kernel is gone."""
    loop = ensure_event_loop()
    if loop.is_running():
        return
    tasks = asyncio.all_tasks(loop)

    async def end() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    loop.run_until_complete(end())


@contextlib.contextmanager
def open_notebook(
    path: Path, parameters: Mapping[str, object] | None = None, **options: Any
) -> Iterator[RunningNotebook]:
    """A `RunningNotebook` with its kernel started; closes it at the end."""
    notebook = RunningNotebook(path, parameters, **options)
    try:
        notebook.start()
        yield notebook
    finally:
        notebook.close()


def inject_parameters(nb: NotebookNode, parameters: Mapping[str, object]) -> NotebookNode:
    """Put a cell with other values behind the cell tagged ``parameters``; the convention is papermill's.

    Raises:
        ValueError: the notebook has no such cell, or does not know one of the names.
    """
    if not parameters:
        return nb
    tagged = [i for i, cell in enumerate(nb.cells) if PARAMETERS in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"The notebook has {len(tagged)} cells tagged {PARAMETERS!r}; one is needed.")
    for name in parameters:
        if not re.search(rf"^{name}\s*=", nb.cells[tagged[0]].source, re.MULTILINE):
            raise ValueError(f"The notebook has no parameter {name}.")
    source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    nb.cells.insert(tagged[0] + 1, new_code_cell(source, id=INJECTED, metadata={"tags": [INJECTED]}))
    return nb


def _with_titles(nb: NotebookNode) -> Iterator[tuple[NotebookNode, str]]:
    """The code cells, each with the last heading above it."""
    title = ""
    for cell in list(nb.cells):
        if cell.cell_type == "markdown":
            title = (re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE) or [title])[-1]
        elif INJECTED in cell.metadata.get("tags", []):
            yield cell, f"{title}, replaced"
        elif cell.cell_type == "code":
            yield cell, title
