"""Computes the steps of a GGUF file in a process of its own, so that an abort of llama.cpp ends that one alone.

Questions go through a socket, packed by `marshal`, which only the process that llama.cpp runs in reads; answers come
back as lines of JSON, and logits lie in memory that both processes map. The process ends with whoever started it, as
its standard input ends then. When it dies, the step that was asked for raises, and `restart` starts another one, whose
slots are empty. Used on one thread, after it was made; POSIX only.
"""

from __future__ import annotations

import json
import marshal
import math
import mmap
import os
import socket
import struct
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from llmapi_kit import errors
from llmapi_kit.child_environment import child_environment
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.image_chunk import VectorItem
from llmapi_kit.runners.libllama import VARIABLE
from llmapi_kit.runners.llama_context import ContextOptions

MAX_ROWS = 1024  # of logits, in one question; pages that are never written take no memory
MAX_END_S = 5.0
NUM_WAITS = 10  # for one answer
MAX_PART = 1 << 16  # of an answer, taken at once
SIZE = struct.Struct("<I")  # before a question, how many bytes it has
# How often OpenMP's threads look for the others before they sleep, a fifth of a millisecond. By default it is 7 ms, all
# of them lost where another program has the core of a thread that is waited for
SPIN_COUNT, SPIN_VARIABLE = 10_000, "GOMP_SPINCOUNT"
_PROGRAM = "from llmapi_kit.runners.llama_program import main; main()"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsSetup:
    """What it takes to make `LlamaSteps`; see there, and `LlamaModel`."""

    path: str
    num_slots: int
    max_length: int
    vocab_size: int
    num_threads: int = 1
    adapts_threads: bool = False
    n_gpu_layers: int | None = None
    use_mmap: bool | None = None
    use_mlock: bool = False
    lora: Sequence[str] = ()
    options: ContextOptions = field(default_factory=ContextOptions)


class LlamaProcess:
    """See `llmapi_kit.runners.llama_cpp_runner.Steps`.

    Args:
        setup: what to compute.
        step_timeout_s: a step that takes longer is taken for one that hangs, and its process is ended; 0 for never.

    Attributes:
        num_parameters: numbers in all weights.

    Raises:
        LlmApiKitError: the model can't be loaded; also where llama.cpp aborts on it.
    """

    def __init__(self, setup: StepsSetup, *, step_timeout_s: float = 0) -> None:
        self.num_slots, self.max_length, self.vocab_size = setup.num_slots, setup.max_length, setup.vocab_size
        self._setup = setup
        self._step_timeout_s = step_timeout_s
        size = MAX_ROWS * setup.vocab_size * 4
        self._file = tempfile.TemporaryFile(dir=_memory_folder())  # noqa: SIM115 - open as long as this is
        self._file.truncate(size)
        self._logits = np.frombuffer(mmap.mmap(self._file.fileno(), size), np.float32).reshape(MAX_ROWS, -1)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - as above
        self._close_files = weakref.finalize(self, _close, self._file, self._errors)
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], object] = lambda: None
        self._held: set[int] = set()
        self._adapters: dict[int, str] = {}
        told = self._start()
        self.can_rewind: bool = told["can_rewind"]
        self.num_parameters: int = told["num_parameters"]

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return self._process.pid if self._process is not None else None

    def step(self, items: Sequence[StepItem]) -> npt.NDArray[np.float32]:
        """See `Runner.step`.

        Raises:
            RuntimeError: the process died, or what an item goes on after went with one before.
        """
        self._check_held(items)
        parts = [part for part in _parts(items) if part]
        rows = [self._compute(part) for part in parts[:1]]
        for part in parts[1:]:
            rows[-1] = rows[-1].copy()  # the next answer lies in the same place
            rows.append(self._compute(part))
        self._held.update(item.slot for item in items)
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def read_vectors(self, items: Sequence[VectorItem]) -> npt.NDArray[np.float32]:
        """See `multimodal_steps.VectorSteps.read_vectors`. The vectors lie where the logits of the answer will.

        Raises:
            RuntimeError: as of `step`.
        """
        self._check_held(items)
        memory = self._logits.reshape(-1)
        rows = []
        for item in items:
            memory[: item.vectors.size] = item.vectors.reshape(-1)
            positions = item.positions.tolist() if item.positions is not None else None
            told = [
                item.slot,
                item.start,
                item.end,
                item.vectors.shape,
                positions,
                item.is_causal,
                item.wants_logits,
                item.adapter,
            ]
            rows.append(self._logits[: self._ask("read_vectors", told)["rows"]].copy())
            self._held.add(item.slot)
        return np.concatenate(rows)

    def restart(self) -> bool:
        """See `llama_cpp_runner.Steps.restart`.

        Raises:
            LlmApiKitError: it does not load any more.
        """
        if self._process is not None and self._process.poll() is None:
            return False
        self._held.clear()
        self._start()
        for adapter, weights in self._adapters.items():
            self._ask("add_adapter", [adapter, weights])
        return True

    def _compute(self, items: Sequence[StepItem]) -> npt.NDArray[np.float32]:
        """Logits of some items, until the next question."""
        question = [(slot, start, list(tokens), *rest) for slot, start, tokens, *rest in items]
        num_rows: int = self._ask("step", question)
        return self._logits[:num_rows]

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See `Runner.copy_prefix`. Where the process has died, the next step tells."""
        with suppress(RuntimeError):
            self._ask("copy_prefix", [source, target, length])
        self._held.add(target)

    def free(self, slot: int) -> None:
        """See `Runner.free`."""
        with suppress(RuntimeError):
            self._ask("free", [slot])

    def mean_state(self, slot: int) -> list[float]:
        """See `Runner.mean_state`."""
        state: list[float] = self._ask("mean_state", [slot])["state"]
        return state

    def add_adapter(self, adapter: int, weights: str) -> None:
        """See `AdapterRunner.add_adapter`."""
        self._ask("add_adapter", [adapter, weights])
        self._adapters[adapter] = weights

    def remove_adapter(self, adapter: int) -> None:
        """See `AdapterRunner.remove_adapter`."""
        del self._adapters[adapter]
        with suppress(RuntimeError):
            self._ask("remove_adapter", [adapter])

    def close(self) -> None:
        """See `Runner.close`. Safe to call twice."""
        self._end()
        self._process = None
        self._close_files()

    def _check_held(self, items: Sequence[StepItem | VectorItem]) -> None:
        """Raise where an item goes on after what is lost."""
        for item in items:
            if item.start and item.slot not in self._held:
                raise RuntimeError("llama.cpp's process was started anew, and what this request had computed is lost")

    def _start(self) -> dict[str, Any]:
        """Start the process and wait until it has loaded."""
        self._end()
        ours, theirs = socket.socketpair()
        environment = child_environment("CUDA_VISIBLE_DEVICES", VARIABLE, GGML_NO_BACKTRACE="1")
        environment[SPIN_VARIABLE] = os.environ.get(SPIN_VARIABLE, str(SPIN_COUNT))
        self._errors.truncate(0)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), str(self._file.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=(theirs.fileno(), self._file.fileno()),
                env=environment,
                start_new_session=True,  # or interrupting a cell would end it as well
            )
        self._connection = ours
        self._end = weakref.finalize(self, _stop, self._process, ours)
        try:
            told: dict[str, Any] = self._ask("load", [asdict(self._setup)])
            # The system counts the time, and not `select`, as in each call of it another thread may take the GIL
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(self._step_timeout_s / NUM_WAITS))
            return told
        except RuntimeError as exc:
            self.close()
            raise errors.ModelLoadError(
                f"{exc}. {os.path.basename(self._setup.path)} contradicts itself, or is of a kind that this version of "
                "llama.cpp does not know. Download it again, or take another."
            ) from exc

    def _ask(self, name: str, arguments: list[Any]) -> Any:
        """Ask the process, and wait for its answer."""
        question = marshal.dumps((name, arguments))
        try:
            self._connection.sendall(SIZE.pack(len(question)) + question)
            line = self._read_line()
        except OSError:  # it is gone
            line = b""
        if not line.endswith(b"\n"):
            raise RuntimeError(self._how_it_ended())
        if line[:1] != b"{":
            return int(line)  # of a step, which has to be quick
        answer = json.loads(line)
        if "error" in answer:
            kind = getattr(errors, answer["error"], None)
            raise (kind or RuntimeError)(answer["message"])
        return answer

    def _read_line(self) -> bytes:
        """What it answers, cut off where it ended; waits in parts, as both processes may have been suspended."""
        line, num_left = b"", NUM_WAITS
        while not line.endswith(b"\n"):
            try:
                part = self._connection.recv(MAX_PART)
            except BlockingIOError as exc:  # that is how the system tells that the time is over
                num_left -= 1
                if not num_left:
                    raise RuntimeError(self._how_it_hung()) from exc
                continue
            if not part:
                break
            line += part
        return line

    def _how_it_hung(self) -> str:
        if self._process is not None:
            self._process.kill()
        self._end()
        limit = f"{self._step_timeout_s:g} s, the limit that step_timeout_s sets"
        return f"llama.cpp's process had not answered for {limit}, and was ended"

    def _how_it_ended(self) -> str:
        code: int | None = None
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                code = self._process.wait(MAX_END_S)
            if code is None:
                self._process.kill()
        said = b""
        with suppress(ValueError):  # this was closed, or the interpreter ends
            self._errors.seek(0)
            said = self._errors.read()
        lines = [line for line in said.decode(errors="replace").splitlines() if "ASSERT" in line]
        why = f": {lines[-1].strip()[-200:]}" if lines else f", exit code {code}"
        return f"llama.cpp's process died{why}"


def _memory_folder() -> str | None:
    """Where files are memory, if there is such a place."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108 - a file without a name


def _parts(items: Sequence[StepItem]) -> list[list[StepItem]]:
    """The items in questions whose logits have room."""
    parts: list[list[StepItem]] = [[]]
    room = MAX_ROWS
    for item in items:
        rows = (len(item.tokens) if item.wants_every else 1) * item.wants_logits
        if rows > room and parts[-1]:
            parts.append([])
            room = MAX_ROWS
        parts[-1].append(item)
        room -= rows
    return parts


def _close(*files: Any) -> None:
    for each in files:
        each.close()


def _timeval(seconds: float) -> bytes:
    """A ``struct timeval``; 0 means no limit."""
    return struct.pack("ll", *divmod(math.ceil(seconds * 1e6), 10**6))


def _stop(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    for each in (connection, process.stdin):
        with suppress(OSError):
            if each is not None:
                each.close()
    try:
        process.wait(MAX_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
