"""Looks at pictures for a GGUF model in a process of its own, so that an abort of libmtmd costs one request its answer.

Nothing else is in that process: streams that are running go on when it ends, and the next picture starts another one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import IO, Any

import numpy as np

from llmapi_kit import errors
from llmapi_kit.child_environment import child_environment
from llmapi_kit.runners.image_chunk import EncodedImage, ImageSpan
from llmapi_kit.runners.libllama import VARIABLE

MAX_LOAD_S = 300.0
MAX_LOOK_S = 300.0
MAX_END_S = 5.0
_PROGRAM = "from llmapi_kit.runners.image_program import main; main()"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSetup:
    """What it takes to make an `ImageEncoder`; see there."""

    model: str
    mmproj: str
    num_threads: int = 1
    use_gpu: bool = False


class ImageProcess:
    """An `llmapi_kit.runners.image_encoder.ImageEncoder` in another process, until `close`. Thread-safe.

    Args:
        setup: what to load.

    Attributes:
        is_causal: whether parts of a picture see only what stands before them.

    Raises:
        LlmApiKitError: the files can't be loaded; also where llama.cpp aborts on them.
    """

    def __init__(self, setup: EncoderSetup) -> None:
        self._setup = setup
        self._name = os.path.basename(setup.mmproj)
        self._lock = threading.Lock()
        self._is_closed = False
        self._end: Callable[[], object] = lambda: None
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.is_causal: bool = self._start()["is_causal"]
        except RuntimeError as exc:
            raise errors.ModelLoadError(
                f"{exc}. {self._name} contradicts itself, or is of a kind that this version of llama.cpp does not "
                "know. Download it again, or take another."
            ) from exc

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return self._process.pid if self._process is not None else None

    def encode(self, pixels: bytes, size: tuple[int, int], param: str) -> EncodedImage:
        """What stands for a picture; see `ImageEncoder.encode`.

        Args:
            pixels: red, green and blue of each, row by row.
            size: width and height.
            param: where it stands in the request, for messages.

        Raises:
            InvalidRequestError: the model can't take it.
            EngineUnavailableError: this was closed.
        """
        with self._lock:
            if self._is_closed:
                raise errors.EngineUnavailableError("The model was closed.")
            try:
                if self._process is None:
                    self._start()
                return self._look(pixels, size)
            except errors.InvalidRequestError as exc:
                raise errors.InvalidRequestError(f"{param} {exc}", param=param) from exc
            except errors.ModelError as exc:  # the files changed since they were loaded
                raise errors.EngineUnavailableError(str(exc)) from exc
            except RuntimeError as exc:
                width, height = size
                raise errors.InvalidRequestError(
                    f"{param} has {width:,} x {height:,} pixels, and the model failed on it: {exc}. Send it in another "
                    "size.",
                    param=param,
                ) from exc

    def close(self) -> None:
        """End the process. Safe to call twice; whoever looks at a picture gets an error."""
        self._is_closed = True
        self._stop()

    def _start(self) -> dict[str, Any]:
        """Start the process and wait until it has loaded."""
        said = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process is
        environment = child_environment("CUDA_VISIBLE_DEVICES", VARIABLE, GGML_NO_BACKTRACE="1")
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env=environment,
            start_new_session=True,  # or interrupting a cell would end it as well
        )
        self._process, self._said = process, said
        self._end = weakref.finalize(self, _stop, process, said)
        with self._limited(MAX_LOAD_S):
            return self._ask(asdict(self._setup), b"")

    def _look(self, pixels: bytes, size: tuple[int, int]) -> EncodedImage:
        with self._limited(MAX_LOOK_S):
            answer = self._ask({"size": size}, pixels)
            rows, width = answer["shape"]
            vectors = np.frombuffer(self._read(4 * rows * width), np.float32).reshape(rows, width)
            parts = [self._span(part) if isinstance(part, dict) else part for part in answer["parts"]]
            return EncodedImage(parts, vectors)

    @contextmanager
    def _limited(self, limit_s: float) -> Iterator[None]:
        """End the process where what it is asked takes longer."""
        timer = threading.Timer(limit_s, self._process.kill if self._process is not None else lambda: None)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _span(self, told: dict[str, Any]) -> ImageSpan:
        grid = None
        if told.pop("has_grid"):
            shape = (2, 4, told["num_vectors"])
            grid = np.frombuffer(self._read(4 * 8 * told["num_vectors"]), np.int32).reshape(shape)
        return ImageSpan(**told, grid=grid)

    def _ask(self, question: dict[str, Any], pixels: bytes) -> dict[str, Any]:
        """Ask the process, and wait for the line of its answer.

        Raises:
            RuntimeError: it died.
        """
        process = self._process
        if process is None:
            raise RuntimeError("llama.cpp's process for pictures was closed")
        try:
            stdin, stdout = _pipes(process)
            stdin.write(json.dumps(question).encode() + b"\n")
            stdin.write(pixels)
            stdin.flush()
            line = stdout.readline()
        except (OSError, ValueError):  # it is gone
            line = b""
        if not line.endswith(b"\n"):
            raise RuntimeError(self._how_it_ended(process))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise getattr(errors, answer["error"], RuntimeError)(answer["message"])
        return answer

    def _read(self, size: int) -> bytes:
        process = self._process
        if process is None:
            raise RuntimeError("llama.cpp's process for pictures was closed")
        data = _pipes(process)[1].read(size)
        if len(data) < size:
            raise RuntimeError(self._how_it_ended(process))
        return data

    def _how_it_ended(self, process: subprocess.Popen[bytes]) -> str:
        """Why there is no answer; the process is over then."""
        try:
            code = process.wait(MAX_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        said = b""
        with suppress(ValueError):  # this was closed
            self._said.seek(0)
            said = self._said.read()
        self._stop()
        lines = [line for line in said.decode(errors="replace").splitlines() if "ASSERT" in line]
        why = f": {lines[-1].strip()[-200:]}" if lines else f", exit code {code}"
        return f"llama.cpp's process for pictures died{why}"

    def _stop(self) -> None:
        self._end()
        self._process = None


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    stdin, stdout = process.stdin, process.stdout
    if stdin is None or stdout is None:
        raise RuntimeError("the process has no pipes")
    return stdin, stdout


def _stop(process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
    with suppress(OSError, ValueError):
        if process.stdin is not None:
            process.stdin.close()
    try:
        process.wait(MAX_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(OSError, ValueError):
        if process.stdout is not None:
            process.stdout.close()
    said.close()
