"""The process behind `llama_process.LlamaProcess`: loads a model, and answers questions about steps.

Run as ``main()`` with two file descriptors as arguments: of a socket, and of a file that logits are written to. Ends
when standard input does, whatever it is doing, as then nobody is left who asked.
"""

from __future__ import annotations

import json
import marshal
import mmap
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from llmapi_kit.errors import LlmApiKitError
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.image_chunk import VectorItem
from llmapi_kit.runners.llama_context import ContextOptions
from llmapi_kit.runners.llama_model import LlamaModel
from llmapi_kit.runners.llama_process import SIZE
from llmapi_kit.runners.llama_steps import LlamaSteps
from llmapi_kit.runners.llama_vocabulary import LlamaVocabulary
from llmapi_kit.runners.load_trial import leave_no_core, read_texts


class Program:
    """Answers questions; each method is one.

    Args:
        logits: descriptor of the file for logits.
    """

    def __init__(self, logits: int) -> None:
        self._memory = mmap.mmap(logits, 0)
        self._steps: LlamaSteps | None = None

    def load(self, setup: dict[str, Any]) -> dict[str, Any]:
        """Load the model, after a look at its vocabulary, which is read in the other process too."""
        path = Path(setup["path"])
        read_texts(LlamaVocabulary(path))
        model = LlamaModel(
            path,
            n_gpu_layers=setup["n_gpu_layers"],
            use_mmap=setup["use_mmap"],
            use_mlock=setup["use_mlock"],
            lora=[Path(each) for each in setup["lora"]],
        )
        self._steps = LlamaSteps(
            model,
            num_slots=setup["num_slots"],
            max_length=setup["max_length"],
            num_threads=setup["num_threads"],
            adapts_threads=setup["adapts_threads"],
            options=ContextOptions(**setup["options"]),
        )
        self._logits = np.frombuffer(self._memory, np.float32).reshape(-1, self._steps.vocab_size)
        return {"can_rewind": self._steps.can_rewind, "num_parameters": model.num_parameters}

    def step(self, *items: tuple[Any, ...]) -> int:
        """Compute, and leave the logits in the file; how many rows."""
        return len(self._loaded.step(list(map(StepItem._make, items)), self._logits))

    def read_vectors(
        self,
        slot: int,
        start: int,
        end: int,
        shape: tuple[int, int],
        positions: list[list[int]] | None,
        is_causal: bool,
        wants_logits: bool,
        adapter: int,
    ) -> dict[str, Any]:
        """Compute vectors, which are in the file, and leave the logits there."""
        vectors = self._logits.reshape(-1)[: shape[0] * shape[1]].reshape(shape).copy()
        grid = np.array(positions, np.int32) if positions is not None else None
        rows = self._loaded.read_vectors(
            [VectorItem(slot, start, end, vectors, grid, is_causal, wants_logits, adapter)]
        )
        self._logits[: len(rows)] = rows
        return {"rows": len(rows)}

    def copy_prefix(self, source: int, target: int, length: int) -> dict[str, Any]:
        """See `Runner.copy_prefix`."""
        self._loaded.copy_prefix(source, target, length)
        return {}

    def free(self, slot: int) -> dict[str, Any]:
        """See `Runner.free`."""
        self._loaded.free(slot)
        return {}

    def mean_state(self, slot: int) -> dict[str, Any]:
        """See `Runner.mean_state`."""
        return {"state": self._loaded.mean_state(slot)}

    def add_adapter(self, adapter: int, weights: str) -> dict[str, Any]:
        """See `AdapterRunner.add_adapter`."""
        self._loaded.add_adapter(adapter, weights)
        return {}

    def remove_adapter(self, adapter: int) -> dict[str, Any]:
        """See `AdapterRunner.remove_adapter`."""
        self._loaded.remove_adapter(adapter)
        return {}

    @property
    def _loaded(self) -> LlamaSteps:
        if self._steps is None:
            raise RuntimeError("nothing is loaded")
        return self._steps


def main() -> None:
    """Answer until the socket or standard input ends."""
    leave_no_core()
    threading.Thread(target=_end_with_owner, daemon=True).start()
    connection, logits = (int(each) for each in sys.argv[1:3])
    program = Program(logits)
    stream = socket.socket(fileno=connection).makefile("rwb")
    while len(head := stream.read(SIZE.size)) == SIZE.size:
        name, arguments = marshal.loads(stream.read(*SIZE.unpack(head)))  # noqa: S302 - of the process that started this
        try:
            answer = getattr(program, name)(*arguments)
        except LlmApiKitError as exc:
            answer = {"error": type(exc).__name__, "message": str(exc)}
        except Exception as exc:
            answer = {"error": "RuntimeError", "message": str(exc)}
        stream.write(json.dumps(answer).encode() + b"\n")
        stream.flush()
    os._exit(0)  # what is left to free goes with the process


def _end_with_owner() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)
